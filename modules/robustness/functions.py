"""The functions of the module: train, attack, evaluate, harden. The defaults are those of `mlapi.yaml`."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from attacks import Attack
from data import CLASSES, Digits, Trained, as_file_images, find, load_digits, load_model, save, save_model
from job import Job, JobError
from linear import Adam, Floats, Ints, Softmax, fit

BATCH = 64
"""Number of images per step of adversarial training."""

PICTURE = {"role": "plot", "visualize": "image"}
"""The tags by which clients recognize files that they can display."""


def train(
    job: Job,
    *,
    test_fraction: float = 0.25,
    regularization: float = 1.0,
    max_iterations: int = 500,
    seed: int = 0,
) -> None:
    """Train a softmax model on part of the digits."""
    dataset = find(job, "dataset")
    digits = load_digits(job.input(dataset))
    shuffled = np.random.default_rng(seed).permutation(len(digits.labels))
    tested = round(test_fraction * len(shuffled))
    if not 0 < tested < len(shuffled):
        raise JobError(f"A test_fraction of {test_fraction} leaves no digits for training or for testing.")
    test_indices = np.sort(shuffled[:tested])
    images, labels = digits.without(test_indices)
    print(f"Training on {len(labels)} of the {len(digits.labels)} digits in {dataset}.")
    for iteration, slope, model in fit(images, labels, CLASSES, regularization, max_iterations):  # noqa: B007
        if iteration % 50 == 0:
            print(f"Iteration {iteration}: the largest slope is {slope:.2e}.")
    job.metrics = {
        "train_accuracy": model.accuracy(images, labels),
        "test_accuracy": model.accuracy(*digits.only(test_indices)),
        "train_size": len(labels),
        "test_size": tested,
        "iterations": iteration,
    }
    print("Test accuracy {test_accuracy:.3f} after {iterations} iterations.".format_map(job.metrics))
    save_model(job.create("model.npz", role="model"), Trained(model, test_indices, digits.digest))
    job.keep(dataset, role="dataset")


def attack(
    job: Job,
    *,
    method: str = "pgd",
    norm: str = "linf",
    epsilon: float = 0.15,
    steps: int = 20,
    step_size: float = 0.0,
    seed: int = 0,
) -> None:
    """Create adversarial versions of the test digits of the model."""
    attack = Attack(method, norm, epsilon, steps, step_size)
    trained, digits = _load(job)
    images, labels = digits.only(trained.test_indices)
    print(f"Attacking {len(labels)} digits by {method} with epsilon {epsilon:g} in {norm}.")
    adversarial = attack.perturb(trained.model, images, labels, np.random.default_rng(seed))
    sizes = attack.sizes(adversarial - images)
    job.metrics = {
        "clean_accuracy": trained.model.accuracy(images, labels),
        "adversarial_accuracy": trained.model.accuracy(adversarial, labels),
        "mean_perturbation": float(sizes.mean()),
        "max_perturbation": float(sizes.max()),
        "images": len(labels),
        "epsilon": epsilon,
    }
    print("Accuracy {clean_accuracy:.3f} became {adversarial_accuracy:.3f}.".format_map(job.metrics))
    tags = {"role": "adversarial", "method": method, "norm": norm, "epsilon": float(epsilon)}
    save(
        job.create("adversarial.npz", **tags),
        adversarial=as_file_images(adversarial),
        originals=as_file_images(images),
        labels=labels,
        indices=trained.test_indices,
    )
    _hand_on(job, "model", "dataset")


def evaluate(
    job: Job,
    *,
    method: str = "pgd",
    norm: str = "linf",
    epsilon: float = 0.15,
    max_epsilon: float = 0.3,
    points: int = 11,
    steps: int = 20,
    examples: int = 8,
    seed: int = 0,
) -> None:
    """Measure and plot the accuracy of the model under attack."""
    import plots  # importing matplotlib takes longer than running the other functions

    attack = Attack(method, norm, epsilon, steps)
    trained, digits = _load(job)
    model, (images, labels) = trained.model, digits.only(trained.test_indices)
    adversarial = attack.perturb(model, images, labels, np.random.default_rng(seed))
    job.metrics = {
        "clean_accuracy": model.accuracy(images, labels),
        "adversarial_accuracy": model.accuracy(adversarial, labels),
        "epsilon": epsilon,
        "curve": _curve(attack, np.linspace(0.0, max_epsilon, points), model, images, labels, seed),
    }
    settings = {"method": method, "norm": norm, "epsilon": epsilon, "steps": steps, "seed": seed}
    report = {**job.metrics, "settings": settings, "digits": _by_digit(model, images, adversarial, labels)}
    job.create("report.json", role="report").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    curve_path = job.create("accuracy.png", **PICTURE, label="Accuracy under attack")
    plots.accuracy(curve_path, job.metrics["curve"], f"{method}, {norm}")
    grid_path = job.create("examples.png", **PICTURE, label="Digits before and after the attack")
    plots.examples(grid_path, model, images, adversarial, labels, examples)
    _hand_on(job, "model", "dataset")


def harden(
    job: Job,
    *,
    method: str = "pgd",
    norm: str = "linf",
    epsilon: float = 0.15,
    steps: int = 7,
    epochs: int = 60,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> None:
    """Continue the training of the model with adversarial examples: Madry's method, by Adam in minibatches."""
    attack = Attack(method, norm, epsilon, steps)
    trained, digits = _load(job)
    test = digits.only(trained.test_indices)
    before = _accuracies(trained.model, attack, *test, seed)
    print("Before: clean accuracy {clean:.3f}, under attack {adversarial:.3f}.".format_map(before))
    model = _adversarial_training(
        trained.model,
        attack,
        *digits.without(trained.test_indices),
        epochs,
        learning_rate,
        np.random.default_rng(seed),
    )
    after = _accuracies(model, attack, *test, seed)
    print("After: clean accuracy {clean:.3f}, under attack {adversarial:.3f}.".format_map(after))
    job.metrics = {
        "clean_accuracy_before": before["clean"],
        "adversarial_accuracy_before": before["adversarial"],
        "clean_accuracy": after["clean"],
        "adversarial_accuracy": after["adversarial"],
        "epsilon": epsilon,
        "epochs": epochs,
    }
    path = job.modify(find(job, "model"), role="model", epsilon=float(epsilon))
    save_model(path, replace(trained, model=model))
    _hand_on(job, "dataset")


def _adversarial_training(
    model: Softmax,
    attack: Attack,
    images: Floats,
    labels: Ints,
    epochs: int,
    rate: float,
    rng: np.random.Generator,
) -> Softmax:
    """Minimize the loss of the adversarial version of each batch; the learning rate decreases linearly to 0."""
    adam = Adam(model)
    for epoch in range(epochs):
        shuffled = rng.permutation(len(labels))
        for start in range(0, len(labels), BATCH):
            batch = shuffled[start : start + BATCH]
            moved = attack.perturb(adam.model, images[batch], labels[batch], rng)
            adam.step(adam.model.gradient(moved, labels[batch]), rate * (1.0 - epoch / epochs))
        if (epoch + 1) % 5 == 0:
            print(f"Epoch {epoch + 1} of {epochs}.")
    return adam.model


def _load(job: Job) -> tuple[Trained, Digits]:
    """The model among the inputs, and its dataset."""
    digits = load_digits(job.input(find(job, "dataset")))
    return load_model(job.input(find(job, "model")), digits), digits


def _curve(
    attack: Attack, epsilons: Floats, model: Softmax, images: Floats, labels: Ints, seed: int
) -> list[dict[str, float]]:
    """The accuracy under the same attack for every epsilon."""
    curve = []
    for epsilon in epsilons:
        strong = replace(attack, epsilon=float(epsilon))
        moved = strong.perturb(model, images, labels, np.random.default_rng(seed))
        curve.append({"epsilon": float(epsilon), "accuracy": model.accuracy(moved, labels)})
        print("Epsilon {epsilon:.3f}: accuracy {accuracy:.3f}.".format_map(curve[-1]))
    return curve


def _accuracies(model: Softmax, attack: Attack, images: Floats, labels: Ints, seed: int) -> dict[str, float]:
    moved = attack.perturb(model, images, labels, np.random.default_rng(seed))
    return {"clean": model.accuracy(images, labels), "adversarial": model.accuracy(moved, labels)}


def _by_digit(model: Softmax, images: Floats, adversarial: Floats, labels: Ints) -> list[dict[str, Any]]:
    """The accuracy of every digit, without and with the attack."""
    return [
        {
            "digit": int(digit),
            "images": int(np.sum(labels == digit)),
            "clean_accuracy": model.accuracy(images[labels == digit], labels[labels == digit]),
            "adversarial_accuracy": model.accuracy(adversarial[labels == digit], labels[labels == digit]),
        }
        for digit in np.unique(labels)
    ]


def _hand_on(job: Job, *roles: str) -> None:
    """Pass on the inputs that later tasks need."""
    for role in roles:
        job.keep(find(job, role), role=role)
