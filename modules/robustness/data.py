"""The files of the module: digits, models and adversarial digits, as `.npz` arrays without pickles."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from job import Job, JobError
from linear import Floats, Ints, Softmax
from numpy.typing import NDArray

SIDE, CLASSES = 8, 10
PIXELS = SIDE * SIDE
WHITE = 16.0
"""The maximum of pixels in files, as in scikit-learn's digits; in memory, pixels are in 0..1."""

NAMES = {"dataset": "digits.npz", "model": "model.npz"}
ARRAYS = {"dataset": {"images", "labels"}, "model": {"weights", "bias", "test_indices", "digest"}}
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Digits:
    """Labelled digits: `images` is (n, 64) in 0..1, `digest` identifies the dataset."""

    images: Floats
    labels: Ints
    digest: str

    def only(self, indices: Ints) -> tuple[Floats, Ints]:
        """The images and labels at `indices`, for testing a model."""
        return self.images[indices], self.labels[indices]

    def without(self, indices: Ints) -> tuple[Floats, Ints]:
        """The other images and labels, for training a model."""
        mask = np.ones(len(self.labels), dtype=bool)
        mask[indices] = False
        return self.images[mask], self.labels[mask]


@dataclass(frozen=True)
class Trained:
    """A model, with the indices of its test digits in the dataset with this `digest`."""

    model: Softmax
    test_indices: Ints
    digest: str


def find(job: Job, role: str) -> str:
    """The name of the input of a role: by its tag, else by its name, else by its arrays."""
    untagged = [name for name, tags in job.inputs.items() if "role" not in tags]
    found = [name for name, tags in job.inputs.items() if tags.get("role") == role]
    found = found or [name for name in untagged if name == NAMES[role]]
    found = found or [name for name in untagged if _array_names(job.input(name)) >= ARRAYS[role]]
    if len(found) == 1:
        return found[0]
    if found:
        raise JobError(f"Several inputs could be the {role}: {', '.join(found)}. Tag one with role: {role}.")
    arrays = ", ".join(sorted(ARRAYS[role]))
    raise JobError(
        f"{job.function} needs a {role}, but no input has the tag role: {role}, "
        f"is called {NAMES[role]}, or is an .npz file with the arrays {arrays}."
    )


def load_digits(path: Path) -> Digits:
    """Read a dataset. Raises `JobError`."""
    arrays = _load(path, ARRAYS["dataset"])
    images, labels = arrays["images"], arrays["labels"]
    _check(path, images.ndim == 3 and images.shape[1:] == (SIDE, SIDE), "images must be (n, 8, 8)")
    _check(path, images.dtype.kind in "fiu", "images must hold numbers")
    _check(path, labels.shape == images.shape[:1], "labels must be (n,), one for each image")
    _check(path, labels.dtype.kind in "iu", "labels must be integers")
    _check(path, len(labels) > 1, "there must be two images at least")
    pixels, digit = images.astype(np.float64), labels.astype(np.int64)
    _check(path, pixels.min() >= 0.0 and pixels.max() <= WHITE, "pixels must be in 0..16")
    _check(path, pixels.max() > 1.0, "pixels must be in 0..16, these are in 0..1: multiply them by 16")
    _check(path, digit.min() >= 0 and digit.max() < CLASSES, "labels must be in 0..9")
    digest = hashlib.sha256(pixels.tobytes() + digit.tobytes()).hexdigest()
    return Digits(pixels.reshape(-1, PIXELS) / WHITE, digit, digest)


def load_model(path: Path, digits: Digits) -> Trained:
    """Read a model that was trained on `digits`. Raises `JobError`."""
    arrays = _load(path, ARRAYS["model"])
    weights, bias, test = arrays["weights"], arrays["bias"], arrays["test_indices"]
    _check(path, weights.shape == (PIXELS, CLASSES) and bias.shape == (CLASSES,), "the layer must be 64 by 10")
    for each in (weights, bias):
        _check(
            path,
            each.dtype == np.float64 and bool(np.isfinite(each).all()),
            "weights and bias must be finite",
        )
    _check(path, str(arrays["digest"]) == digits.digest, "the model was trained on another dataset")
    _check(path, test.ndim == 1 and test.dtype == np.int64, "test_indices must be a row of integers")
    known = bool(np.isin(test, np.arange(len(digits.labels))).all())
    _check(path, known and 0 < len(np.unique(test)) < len(digits.labels), "test_indices must be a proper part")
    return Trained(Softmax(weights, bias), test, digits.digest)


def save_model(path: Path, trained: Trained) -> None:
    """Write a model."""
    save(
        path,
        weights=trained.model.weights,
        bias=trained.model.bias,
        test_indices=trained.test_indices,
        digest=np.array(trained.digest),
    )


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays; equal arrays result in equal bytes, because NumPy dates every entry 1980."""
    with path.open("wb") as file:  # with a path, NumPy would append .npz to other names
        np.savez(file, **arrays)


def as_file_images(images: Floats) -> Floats:
    """Convert rows of pixels in 0..1 to the images of a file: (n, 8, 8), in 0..16."""
    return images.reshape(-1, SIDE, SIDE) * WHITE


def _load(path: Path, names: set[str]) -> dict[str, NDArray[Any]]:
    """The arrays `names` of an .npz file, without pickles."""
    missing = sorted(names - _array_names(path))
    _check(path, not missing, f"it is no .npz file with the arrays {', '.join(sorted(names))}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in sorted(names)}
    except UNREADABLE as error:
        raise JobError(f"{path.name} cannot be read: {error}") from error


def _array_names(path: Path) -> set[str]:
    """The names of the arrays in an .npz file; empty for any other file."""
    if not zipfile.is_zipfile(path):
        return set()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return set(arrays.files)
    except UNREADABLE:
        return set()


def _check(path: Path, holds: bool, rule: str) -> None:
    if not holds:
        raise JobError(f"{path.name} is not valid: {rule}.")
