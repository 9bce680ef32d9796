"""The model: softmax (multinomial logistic) regression in NumPy.

The loss is the cross entropy, whose gradients are implemented here, so that attacks and training need no
framework. Images are rows of pixels in 0..1; labels are the numbers of the classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Softmax(NamedTuple):
    """One linear layer and a softmax: `weights` is (pixels, classes), `bias` is (classes,)."""

    weights: Floats
    bias: Floats

    def predict(self, images: Floats) -> Ints:
        """The most likely classes of images."""
        return np.argmax(images @ self.weights + self.bias, axis=1)

    def accuracy(self, images: Floats, labels: Ints) -> float:
        """The share of correctly classified images."""
        return float(np.mean(self.predict(images) == labels))

    def residuals(self, images: Floats, labels: Ints) -> Floats:
        """The gradient of the loss by the logits: the probabilities minus the labels."""
        logits = images @ self.weights + self.bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        odds[np.arange(len(labels)), labels] -= 1.0
        return odds

    def input_gradient(self, images: Floats, labels: Ints) -> Floats:
        """The gradient of the loss by the pixels: the direction of an attack."""
        return self.residuals(images, labels) @ self.weights.T

    def gradient(self, images: Floats, labels: Ints) -> "Softmax":
        """The gradient of the mean loss by the parameters, in their shapes."""
        residuals = self.residuals(images, labels) / len(labels)
        return Softmax(images.T @ residuals, residuals.sum(axis=0))


def fit(
    images: Floats, labels: Ints, classes: int, c: float, iterations: int, tolerance: float = 1e-5
) -> Iterator[tuple[int, float, Softmax]]:
    """Fit a model; yields (iteration, largest entry of the gradient, model) until it has converged.

    The objective is scikit-learn's: half the squared weights plus `c` times the summed loss (here divided
    by `c` times the number of images). It is convex, and is minimized by Nesterov's accelerated gradient
    with the gradient restart of O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes"
    (2015). The result is deterministic.
    """
    # Centred images result in the same model, up to the bias, in far fewer iterations.
    mean = images.mean(axis=0)
    images = images - mean
    penalty = 1.0 / (c * len(labels))
    step = 1.0 / (curvature(images) + penalty)
    model = ahead = Softmax(np.zeros((images.shape[1], classes)), np.zeros(classes))
    momentum = 1.0
    for iteration in range(1, iterations + 1):
        by_weights, by_bias = ahead.gradient(images, labels)
        by_weights += penalty * ahead.weights
        after = Softmax(ahead.weights - step * by_weights, ahead.bias - step * by_bias)
        moved = Softmax(after.weights - model.weights, after.bias - model.bias)
        if np.sum(by_weights * moved.weights) + np.sum(by_bias * moved.bias) > 0:
            momentum = 1.0
        following = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        push = (momentum - 1.0) / following
        ahead = Softmax(after.weights + push * moved.weights, after.bias + push * moved.bias)
        model, momentum = after, following
        slope = float(max(np.abs(by_weights).max(), np.abs(by_bias).max()))
        yield iteration, slope, Softmax(model.weights, model.bias - mean @ model.weights)
        if slope < tolerance:
            return


def curvature(images: Floats) -> float:
    """A bound of the curvature of the mean loss: half the largest eigenvalue of the second moments of the images."""
    rows = np.hstack([images, np.ones((len(images), 1))])
    return float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]) / 2.0


class Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization" (2015), for a `Softmax`."""

    def __init__(self, model: Softmax) -> None:
        self.model = model
        self._steps = 0
        self._means = [np.zeros_like(each) for each in model]
        self._squares = [np.zeros_like(each) for each in model]

    def step(self, gradient: Softmax, rate: float) -> None:
        """Move the model against `gradient`."""
        self._steps += 1
        moved = []
        for i, (each, slope) in enumerate(zip(self.model, gradient, strict=True)):
            self._means[i] = 0.9 * self._means[i] + 0.1 * slope
            self._squares[i] = 0.999 * self._squares[i] + 0.001 * slope**2
            mean = self._means[i] / (1.0 - 0.9**self._steps)
            square = self._squares[i] / (1.0 - 0.999**self._steps)
            moved.append(each - rate * mean / (np.sqrt(square) + 1e-8))
        self.model = Softmax(*moved)
