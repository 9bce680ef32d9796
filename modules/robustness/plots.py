"""The plots of an evaluation: equal numbers result in equal bytes."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from data import SIDE
from linear import Floats, Ints, Softmax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

matplotlib.rcdefaults()  # the plots must not depend on a user's matplotlibrc


def accuracy(path: Path, curve: list[dict[str, Any]], title: str) -> None:
    """Plot the accuracy against epsilon."""
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([point["epsilon"] for point in curve], [point["accuracy"] for point in curve], marker="o")
    axes.set(xlabel="epsilon", ylabel="accuracy", ylim=(-0.02, 1.02), title=f"Accuracy under attack ({title})")
    axes.grid(visible=True, alpha=0.3)
    _save(figure, path)


def examples(path: Path, model: Softmax, images: Floats, adversarial: Floats, labels: Ints, count: int) -> None:
    """Plot digits before and after the attack, with the predictions of the model; misclassified digits first."""
    before, after = model.predict(images), model.predict(adversarial)
    fooled = (before == labels) & (after != labels)
    chosen = np.argsort(~fooled, kind="stable")[:count]
    figure = Figure(figsize=(1.1 * len(chosen) + 0.6, 2.9), dpi=100, layout="constrained")
    grid = figure.subplots(2, len(chosen), squeeze=False)
    for row, words, pixels, predicted in (
        (grid[0], "original", images, before),
        (grid[1], "adversarial", adversarial, after),
    ):
        row[0].set_ylabel(words)
        for axes, each in zip(row, chosen, strict=True):
            axes.imshow(pixels[each].reshape(SIDE, SIDE), cmap="gray", vmin=0.0, vmax=1.0)
            axes.set(xticks=[], yticks=[])
            right = predicted[each] == labels[each]
            axes.set_title(f"seen: {predicted[each]}", color="tab:green" if right else "tab:red", fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG without the name and version of the plotting library."""
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
