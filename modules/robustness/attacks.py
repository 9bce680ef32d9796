"""White-box attacks: small perturbations of images that maximize the loss of the model.

Fast gradient sign (`fgsm`): Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples",
ICLR 2015. Projected gradient descent (`pgd`) from a random start: Madry, Makelov, Schmidt, Tsipras, Vladu,
"Towards deep learning models resistant to adversarial attacks", ICLR 2018.
"""

from dataclasses import dataclass

import numpy as np
from job import JobError
from linear import Floats, Ints, Softmax

METHODS = ("fgsm", "pgd")
NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Attack:
    """The parameters of an attack: perturbations of at most `epsilon` in `norm`, with pixels in 0..1."""

    method: str
    norm: str
    epsilon: float
    steps: int = 1
    step_size: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.norm not in NORMS:
            raise JobError(f"Unknown attack: {self.method!r} in the norm {self.norm!r}.")
        if not 0.0 <= self.epsilon <= 1.0 or self.step_size < 0.0 or self.steps < 1:
            raise JobError("An attack needs epsilon in 0..1, a step size of at least 0 and at least 1 step.")

    def perturb(self, model: Softmax, images: Floats, labels: Ints, rng: np.random.Generator) -> Floats:
        """The adversarial versions of images; only `pgd` uses `rng`."""
        if self.method == "fgsm":
            return self._move(model, images, images, labels, self.epsilon)
        # 2.5 epsilon / steps, according to Madry: sufficient to reach the boundary of the ball from any start.
        size = self.step_size or 2.5 * self.epsilon / self.steps
        moved = np.clip(images + self._start(images.shape, rng), 0.0, 1.0)
        for _ in range(self.steps):
            moved = self._move(model, images, moved, labels, size)
        return moved

    def sizes(self, change: Floats) -> Floats:
        """The norms of the perturbations of images."""
        return np.linalg.norm(change, ord=np.inf if self.norm == "linf" else 2, axis=1)

    def _move(self, model: Softmax, images: Floats, moved: Floats, labels: Ints, size: float) -> Floats:
        """One step of `size` along the gradient of the loss, projected into the ball around `images` and into 0..1."""
        gradient = model.input_gradient(moved, labels)
        if self.norm == "linf":
            change = np.clip(moved + size * np.sign(gradient) - images, -self.epsilon, self.epsilon)
        else:
            change = moved + size * gradient / _lengths(gradient) - images
            change *= np.minimum(1.0, self.epsilon / _lengths(change))
        # The images are in 0..1, so clipping only shrinks the perturbation.
        return np.clip(images + change, 0.0, 1.0)

    def _start(self, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
        """A uniform sample of the ball."""
        if self.norm == "linf":
            return rng.uniform(-self.epsilon, self.epsilon, shape)
        direction = rng.standard_normal(shape)
        radius = self.epsilon * rng.uniform(size=(shape[0], 1)) ** (1.0 / shape[1])
        return radius * direction / _lengths(direction)


def _lengths(rows: Floats) -> Floats:
    """The Euclidean lengths of the rows, as a column; never 0, so that they can be divisors."""
    return np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
