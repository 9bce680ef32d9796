"""The sample modules, run as processes in their own job folders."""

import hashlib
import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

np = pytest.importorskip("numpy")
pytest.importorskip("matplotlib")
sklearn_datasets = pytest.importorskip("sklearn.datasets")
sklearn_linear = pytest.importorskip("sklearn.linear_model")

MODULES = Path(__file__).parents[2] / "modules"
ROBUSTNESS = MODULES / "robustness"
HELLOWORLD = MODULES / "helloworld"
MANIFEST = yaml.safe_load((ROBUSTNESS / "mlapi.yaml").read_text("utf-8"))
HELLO_MANIFEST = yaml.safe_load((HELLOWORLD / "mlsploit_module.yaml").read_text("utf-8"))
FUNCTIONS = {function["name"]: function for function in MANIFEST["functions"]}
EPSILON = 0.15
DIGITS = sklearn_datasets.load_digits()


class Input(NamedTuple):
    """An input file: its bytes and its tags."""

    content: bytes
    tags: dict[str, Any]


class Done(NamedTuple):
    """The result of a job."""

    status: int
    stdout: str
    stderr: str
    folder: Path
    report: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.report["metrics"]

    def path(self, name: str) -> Path:
        return self.folder / "output" / name

    def tags(self, name: str) -> dict[str, Any]:
        return self.report["tags"][self.report["files"].index(name)]

    def outputs(self) -> dict[str, Input]:
        """Return the inputs of the next task."""
        return {name: Input(self.path(name).read_bytes(), self.tags(name)) for name in self.report["files"]}


def prepare(folder: Path, function: str, inputs: dict[str, Input], options: dict[str, Any]) -> None:
    (folder / "input").mkdir(parents=True)
    (folder / "output").mkdir()
    for name, file in inputs.items():
        (folder / "input" / name).write_bytes(file.content)
    document = {
        "name": function,
        "num_files": len(inputs),
        "files": list(inputs),
        "options": options,
        "tags": [file.tags for file in inputs.values()],
    }
    (folder / "input" / "input.json").write_text(json.dumps(document), "utf-8")


def start(module: Path, folder: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.Popen(
        [sys.executable, "-B", "main.py"],
        cwd=module,
        env={**environment, "MLAPI_JOB_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module: Path, folder: Path, function: str, inputs: dict[str, Input], **options: Any) -> Done:
    prepare(folder, function, inputs, options)
    with start(module, folder) as process:
        stdout, stderr = process.communicate(timeout=60)
    path = folder / "output" / "output.json"
    report = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return Done(process.returncode, stdout, stderr, folder, report)


def npz(folder: Path, **arrays: Any) -> bytes:
    path = folder / "made.npz"
    np.savez(path, **arrays)
    return path.read_bytes()


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def accuracy(model: Path, images: Any, labels: Any) -> float:
    """Return the accuracy computed from the files alone, independently of the module."""
    layer = arrays(model)
    scores = images.reshape(len(images), -1) / 16.0 @ layer["weights"] + layer["bias"]
    return float((scores.argmax(axis=1) == labels).mean())


class Chain(NamedTuple):
    """One run of the five tasks. The inputs of a task are the outputs of the previous one."""

    dataset: dict[str, Input]
    train: Done
    attack: Done
    evaluate: Done
    harden: Done
    again: Done

    def inputs(self, step: str) -> dict[str, Input]:
        before = self._fields[self._fields.index(step) - 1]
        return self.dataset if step == "train" else getattr(self, before).outputs()


STEPS = ("train", "attack", "evaluate", "harden", "again")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    subprocess.run([sys.executable, "-B", ROBUSTNESS / "make_digits.py", folder / "digits.npz"], check=True)
    dataset = inputs = {"digits.npz": Input((folder / "digits.npz").read_bytes(), {})}
    done = []
    for step in STEPS:
        done.append(run(ROBUSTNESS, folder / step, step.replace("again", "evaluate"), inputs))
        assert done[-1].status == 0, done[-1].stderr
        inputs = done[-1].outputs()
    return Chain(dataset, *done)


@pytest.mark.parametrize(
    ("step", "created", "modified", "kept"),
    [
        ("train", {"model.npz"}, set(), {"digits.npz"}),
        ("attack", {"adversarial.npz"}, set(), {"model.npz", "digits.npz"}),
        ("evaluate", {"accuracy.png", "examples.png", "report.json"}, set(), {"model.npz", "digits.npz"}),
        ("harden", set(), {"model.npz"}, {"digits.npz"}),
    ],
)
def test_every_step_delivers_the_files_it_reports(chain, step, created, modified, kept):
    done, inputs = getattr(chain, step), chain.inputs(step)
    assert set(done.report) == {"name", "files", "files_created", "files_modified", "tags", "metrics"}
    assert done.report["name"] == step
    assert set(done.report["files_created"]) == created
    assert set(done.report["files_modified"]) == modified
    assert sorted(done.report["files"]) == sorted(created | modified | kept)
    on_disk = {path.name for path in (done.folder / "output").iterdir()}
    assert on_disk == {*done.report["files"], "output.json"}
    for name in kept:
        assert done.path(name).read_bytes() == inputs[name].content
    for name in modified:
        assert done.path(name).read_bytes() != inputs[name].content


@pytest.mark.parametrize("step", ["train", "attack", "evaluate", "harden"])
def test_the_outputs_match_the_manifest(chain, step):
    done, function = getattr(chain, step), FUNCTIONS[step]
    declared = {tag["name"]: {"str": str, "float": float}[tag["type"]] for tag in function["output_tags"]}
    assert len(done.report["tags"]) == len(done.report["files"])
    for tags in done.report["tags"]:
        assert {name: type(value) for name, value in tags.items()}.items() <= declared.items()
    for pattern in function["output_files"]:
        assert any(fnmatch(name, pattern) for name in done.report["files"])
    assert function["creates_new_files"] is bool(done.report["files_created"])
    assert function["modifies_input_files"] is bool(done.report["files_modified"])
    endings = {function["expected_filetype"], *function["optional_filetypes"]}
    assert {Path(name).suffix[1:] for name in chain.inputs(step)} <= endings
    bounds = function["input_files"]
    assert bounds["minimum"] <= len(chain.inputs(step)) <= bounds["maximum"]


def test_the_roles_by_which_later_steps_find_their_inputs(chain):
    assert chain.train.tags("model.npz") == {"role": "model"}
    assert chain.train.tags("digits.npz") == {"role": "dataset"}
    made = {"role": "adversarial", "method": "pgd", "norm": "linf", "epsilon": EPSILON}
    assert chain.attack.tags("adversarial.npz") == made
    assert chain.evaluate.tags("accuracy.png")["role"] == "plot"
    assert chain.evaluate.tags("report.json") == {"role": "report"}
    assert chain.harden.tags("model.npz") == {"role": "model", "epsilon": EPSILON}


def test_train_matches_scikit_learn_and_reports_true_metrics(chain):
    layer = arrays(chain.train.path("model.npz"))
    test = layer["test_indices"]
    train = np.setdiff1d(np.arange(len(DIGITS.target)), test)
    metrics = chain.train.metrics
    assert (metrics["train_size"], metrics["test_size"]) == (len(train), len(test)) == (1348, 449)
    for part, name in ((train, "train_accuracy"), (test, "test_accuracy")):
        measured = accuracy(chain.train.path("model.npz"), DIGITS.images[part], DIGITS.target[part])
        assert metrics[name] == pytest.approx(measured)
    assert metrics["test_accuracy"] > 0.93
    theirs = sklearn_linear.LogisticRegression(C=1.0, max_iter=5000, tol=1e-8)
    theirs.fit(DIGITS.data[train] / 16.0, DIGITS.target[train])
    assert np.abs(layer["weights"] - theirs.coef_.T).max() < 0.02


def test_attack_stays_within_epsilon_and_reports_true_metrics(chain):
    made = arrays(chain.attack.path("adversarial.npz"))
    model, metrics = chain.attack.path("model.npz"), chain.attack.metrics
    np.testing.assert_array_equal(made["originals"], DIGITS.images[made["indices"]])
    np.testing.assert_array_equal(made["labels"], DIGITS.target[made["indices"]])
    np.testing.assert_array_equal(made["indices"], arrays(model)["test_indices"])
    change = np.abs(made["adversarial"] - made["originals"]).max(axis=(1, 2)) / 16.0
    assert change.max() <= EPSILON + 1e-12
    assert made["adversarial"].min() >= 0.0
    assert made["adversarial"].max() <= 16.0
    assert metrics["mean_perturbation"] == pytest.approx(change.mean())
    assert metrics["max_perturbation"] == pytest.approx(change.max())
    clean = accuracy(model, made["originals"], made["labels"])
    fooled = accuracy(model, made["adversarial"], made["labels"])
    assert metrics["clean_accuracy"] == pytest.approx(clean)
    assert metrics["adversarial_accuracy"] == pytest.approx(fooled)
    assert fooled < clean - 0.5


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_an_l2_attack_is_bounded_and_effective(chain, tmp_path, method):
    done = run(ROBUSTNESS, tmp_path, "attack", chain.train.outputs(), method=method, norm="l2", epsilon=0.8, seed=3)
    made = arrays(done.path("adversarial.npz"))
    lengths = np.linalg.norm((made["adversarial"] - made["originals"]).reshape(-1, 64), axis=1) / 16.0
    assert lengths.max() <= 0.8 + 1e-12
    assert done.metrics["mean_perturbation"] == pytest.approx(lengths.mean())
    assert lengths.mean() > 0.6
    assert done.metrics["adversarial_accuracy"] < done.metrics["clean_accuracy"] - 0.3


def test_fgsm_moves_every_pixel_by_epsilon_up_the_gradients_sign(chain, tmp_path):
    done = run(ROBUSTNESS, tmp_path, "attack", chain.train.outputs(), method="fgsm", epsilon=0.05)
    made, layer = arrays(done.path("adversarial.npz")), arrays(done.path("model.npz"))
    images = made["originals"].reshape(-1, 64) / 16.0
    logits = images @ layer["weights"] + layer["bias"]
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = (odds - np.eye(10)[made["labels"]]) @ layer["weights"].T
    expected = np.clip(images + 0.05 * np.sign(gradient), 0.0, 1.0)
    np.testing.assert_allclose(made["adversarial"].reshape(-1, 64) / 16.0, expected, atol=1e-12)


def test_pgd_is_no_weaker_than_fgsm(chain, tmp_path):
    fgsm = run(ROBUSTNESS, tmp_path, "attack", chain.train.outputs(), method="fgsm", epsilon=EPSILON)
    assert chain.attack.metrics["adversarial_accuracy"] <= fgsm.metrics["adversarial_accuracy"]


def test_the_step_size_and_the_steps_have_an_effect(chain, tmp_path):
    timid = run(ROBUSTNESS, tmp_path, "attack", chain.train.outputs(), steps=1, step_size=0.001, epsilon=0.1)
    assert chain.attack.metrics["adversarial_accuracy"] < timid.metrics["adversarial_accuracy"] - 0.3


def test_evaluate_measures_the_attack(chain):
    evaluated, attacked = chain.evaluate.metrics, chain.attack.metrics
    for name in ("clean_accuracy", "adversarial_accuracy"):
        assert evaluated[name] == attacked[name]
    curve = evaluated["curve"]
    assert [point["epsilon"] for point in curve] == pytest.approx(np.linspace(0.0, 0.3, 11))
    assert curve[0]["accuracy"] == evaluated["clean_accuracy"]
    assert curve[5]["accuracy"] == pytest.approx(evaluated["adversarial_accuracy"])
    falling = [point["accuracy"] for point in curve]
    assert falling == sorted(falling, reverse=True)


def test_evaluate_reports_every_digit(chain):
    report = json.loads(chain.evaluate.path("report.json").read_text("utf-8"))
    assert [row["digit"] for row in report["digits"]] == list(range(10))
    sizes = [row["images"] for row in report["digits"]]
    assert sum(sizes) == chain.train.metrics["test_size"]
    for name in ("clean_accuracy", "adversarial_accuracy"):
        mean = np.average([row[name] for row in report["digits"]], weights=sizes)
        assert report[name] == chain.evaluate.metrics[name] == pytest.approx(mean)
    assert report["settings"] == {"method": "pgd", "norm": "linf", "epsilon": EPSILON, "steps": 20, "seed": 0}


@pytest.mark.parametrize("name", ["accuracy.png", "examples.png"])
def test_the_plots_are_png_and_depend_on_the_model(chain, name):
    before, after = chain.evaluate.path(name).read_bytes(), chain.again.path(name).read_bytes()
    assert before.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(before) > 2000
    assert b"atplotlib" not in before
    assert before != after


def test_a_hardened_model_is_more_robust(chain):
    plain, hardened = chain.evaluate.metrics, chain.again.metrics
    assert hardened["adversarial_accuracy"] > plain["adversarial_accuracy"] + 0.2
    assert hardened["clean_accuracy"] > 0.85
    metrics = chain.harden.metrics
    assert metrics["clean_accuracy_before"] == plain["clean_accuracy"]
    assert metrics["clean_accuracy"] == hardened["clean_accuracy"]
    assert metrics["adversarial_accuracy_before"] < metrics["adversarial_accuracy"] - 0.2
    old = arrays(chain.attack.path("adversarial.npz"))
    model = chain.harden.path("model.npz")
    assert accuracy(model, old["adversarial"], old["labels"]) > plain["adversarial_accuracy"] + 0.2


def test_harden_learns_nothing_from_the_test_digits(chain, tmp_path):
    """Other labels of the test digits give the same weights."""
    made = arrays(chain.train.path("digits.npz"))
    layer = arrays(chain.train.path("model.npz"))
    labels = made["labels"].copy()
    labels[layer["test_indices"]] = (labels[layer["test_indices"]] + 1) % 10
    layer["digest"] = np.array(hashlib.sha256(made["images"].tobytes() + labels.tobytes()).hexdigest())
    inputs = {
        "digits.npz": Input(npz(tmp_path, images=made["images"], labels=labels), {}),
        "model.npz": Input(npz(tmp_path, **layer), {}),
    }
    done = run(ROBUSTNESS, tmp_path / "job", "harden", inputs)
    ours, theirs = arrays(done.path("model.npz")), arrays(chain.harden.path("model.npz"))
    np.testing.assert_array_equal(ours["weights"], theirs["weights"])


@pytest.mark.parametrize("step", ["train", "attack", "evaluate", "harden"])
def test_a_second_run_gives_the_same_bytes(chain, tmp_path, step):
    first = getattr(chain, step)
    second = run(ROBUSTNESS, tmp_path, step, chain.inputs(step))
    assert second.outputs() == first.outputs()
    assert second.report == first.report
    assert second.stdout == first.stdout


@pytest.mark.parametrize(("step", "name"), [("attack", "adversarial.npz"), ("harden", "model.npz")])
def test_another_seed_gives_other_bytes(chain, tmp_path, step, name):
    other = run(ROBUSTNESS, tmp_path, step, chain.inputs(step), seed=1)
    assert other.path(name).read_bytes() != getattr(chain, step).path(name).read_bytes()


def test_the_seed_and_the_fraction_determine_the_test_set(chain, tmp_path):
    done = run(ROBUSTNESS, tmp_path, "train", chain.dataset, seed=1, test_fraction=0.5, max_iterations=20)
    test = arrays(done.path("model.npz"))["test_indices"]
    assert len(test) == done.metrics["test_size"] == 898
    assert done.metrics["iterations"] == 20
    assert not set(arrays(chain.train.path("model.npz"))["test_indices"]) <= set(test)


def test_inputs_are_found_by_tag_then_by_content_and_keep_their_names(chain, tmp_path):
    layer = arrays(chain.train.path("model.npz"))
    worse = npz(tmp_path, **{**layer, "weights": -layer["weights"]})
    inputs = {
        "model.npz": Input(worse, {"role": "old"}),
        "mine.npz": Input(chain.train.path("model.npz").read_bytes(), {"role": "model"}),
        "numbers.npz": chain.dataset["digits.npz"],
        "notes.json": Input(b"{}", {}),
    }
    done = run(ROBUSTNESS, tmp_path / "job", "harden", inputs, epochs=1)
    assert done.status == 0, done.stderr
    assert done.report["files_modified"] == ["mine.npz"]
    assert done.report["files"] == ["mine.npz", "numbers.npz"]
    assert done.metrics["clean_accuracy_before"] == chain.train.metrics["test_accuracy"]


def test_the_log_grows_while_the_module_runs(chain, tmp_path):
    prepare(tmp_path, "harden", chain.train.outputs(), {"epochs": 200, "steps": 20})
    with start(ROBUSTNESS, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Before: ")
        assert not (tmp_path / "output" / "output.json").exists()
        process.kill()


def bad_datasets(folder: Path) -> list[tuple[bytes, str]]:
    images, labels = DIGITS.images, DIGITS.target
    sick = images.copy()
    sick[0, 0, 0] = np.nan
    return [
        (b"not an archive", "no .npz file with the arrays images, labels"),
        (npz(folder, images=images, labels=labels)[:-500], "no .npz file"),
        (npz(folder, images=images), "no .npz file with the arrays images, labels"),
        (npz(folder, images=images, labels=labels.astype(object)), "allow_pickle=False"),
        (npz(folder, images=images.reshape(-1, 64), labels=labels), "must be (n, 8, 8)"),
        (npz(folder, images=images.astype(str), labels=labels), "must hold numbers"),
        (npz(folder, images=images, labels=labels[:9]), "one for each image"),
        (npz(folder, images=images, labels=labels / 2), "labels must be integers"),
        (npz(folder, images=images, labels=labels + 1), "labels must be in 0..9"),
        (npz(folder, images=sick, labels=labels), "pixels must be in 0..16"),
        (npz(folder, images=images * 2, labels=labels), "pixels must be in 0..16"),
        (npz(folder, images=images / 16, labels=labels), "multiply them by 16"),
        (npz(folder, images=images[:1], labels=labels[:1]), "two images at least"),
    ]


def test_an_invalid_dataset_fails_the_job(tmp_path):
    for i, (content, message) in enumerate(bad_datasets(tmp_path)):
        done = run(ROBUSTNESS, tmp_path / str(i), "train", {"digits.npz": Input(content, {})})
        assert_refused(done, "digits.npz", message)


def assert_refused(done: Done, *words: str) -> None:
    assert done.status == 1
    assert done.report == {}
    assert done.stderr.startswith("robustness: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_a_model_that_does_not_fit_fails_the_job(chain, tmp_path):
    layer = arrays(chain.train.path("model.npz"))
    faults = {
        "64 by 10": {"weights": layer["weights"][:9]},
        "must be finite": {"bias": np.full(10, np.inf)},
        "another dataset": {"digest": np.array("0" * 64)},
        "a proper part": {"test_indices": np.array([5000])},
        "a row of integers": {"test_indices": np.array([[1]])},
    }
    for i, (message, change) in enumerate(faults.items()):
        model = Input(npz(tmp_path, **{**layer, **change}), {})
        done = run(ROBUSTNESS, tmp_path / str(i), "attack", {**chain.dataset, "model.npz": model})
        assert_refused(done, "model.npz", message)


def test_missing_and_ambiguous_inputs_fail_the_job(chain, tmp_path):
    none = run(ROBUSTNESS, tmp_path / "none", "train", {})
    assert_refused(none, "train needs a dataset", "role: dataset", "digits.npz")
    lonely = run(ROBUSTNESS, tmp_path / "lonely", "attack", chain.dataset)
    assert_refused(lonely, "attack needs a model")
    twice = dict.fromkeys(("a.npz", "b.npz"), chain.dataset["digits.npz"])
    assert_refused(run(ROBUSTNESS, tmp_path / "twice", "train", twice), "a.npz, b.npz")
    taken = {"model.npz": Input(chain.dataset["digits.npz"].content, {"role": "dataset"})}
    assert_refused(run(ROBUSTNESS, tmp_path / "taken", "train", taken), "'model.npz'", "another name")


def test_invalid_arguments_fail_the_job(chain, tmp_path):
    refused = run(ROBUSTNESS, tmp_path / "function", "steal", chain.dataset)
    assert_refused(refused, "'steal'", "train, attack, evaluate, harden")
    assert_refused(run(ROBUSTNESS, tmp_path / "option", "train", chain.dataset, speed=9), "no option speed")
    inputs = chain.train.outputs()
    assert_refused(run(ROBUSTNESS, tmp_path / "method", "attack", inputs, method="magic"), "'magic'")
    assert_refused(run(ROBUSTNESS, tmp_path / "epsilon", "attack", inputs, epsilon=2.0), "epsilon in 0..1")
    tiny = run(ROBUSTNESS, tmp_path / "tiny", "train", chain.dataset, test_fraction=0.0001)
    assert_refused(tiny, "test_fraction of 0.0001")


def test_an_invalid_job_folder_fails_the_job(chain, tmp_path):
    prepare(tmp_path, "train", chain.dataset, {})
    document = tmp_path / "input" / "input.json"
    whole = json.loads(document.read_text("utf-8"))
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "no 'name'"),
        (json.dumps({**whole, "options": []}), "no 'options' of type dict"),
        (json.dumps({**whole, "tags": []}), "one entry of tags for each file"),
        (json.dumps({**whole, "files": ["gone.npz"]}), "'gone.npz' is missing"),
    ):
        document.write_text(text, "utf-8")
        with start(ROBUSTNESS, tmp_path) as process:
            stderr = process.communicate(timeout=60)[1]
        assert (process.returncode, message in stderr) == (1, True), stderr


def test_a_null_option_has_its_default(chain, tmp_path):
    done = run(ROBUSTNESS, tmp_path, "attack", chain.train.outputs(), epsilon=None, seed=None)
    assert done.outputs() == chain.attack.outputs()


def test_the_manifest_and_the_code_have_the_same_options_and_defaults():
    program = (
        "import functions, json, sys;"
        "print(json.dumps([getattr(functions, name).__kwdefaults__ for name in sys.argv[1:]]))"
    )
    printed = subprocess.run(
        [sys.executable, "-B", "-c", program, *FUNCTIONS],
        cwd=ROBUSTNESS,
        capture_output=True,
        check=True,
    )
    for function, defaults in zip(FUNCTIONS.values(), json.loads(printed.stdout), strict=True):
        assert {option["name"]: option["default"] for option in function["options"]} == defaults
        kinds = {option["name"]: option["type"].replace("enum", "str") for option in function["options"]}
        assert kinds == {option: type(default).__name__ for option, default in defaults.items()}


@pytest.mark.parametrize("manifest", [MANIFEST, HELLO_MANIFEST], ids=["robustness", "helloworld"])
def test_the_manifests_are_valid(manifest):
    assert len(manifest["display_name"]) <= 25
    assert len(manifest["tagline"]) <= 50
    assert manifest["doctxt"]
    assert manifest.get("command", ["python", "main.py"]) == ["python", "main.py"]
    for function in manifest["functions"]:
        assert function["name"].isidentifier()
        assert len(function["name"]) <= 25
        for option in function["options"]:
            assert option["required"] is False
            default = option["default"]
            if option["type"] == "enum":
                assert default in option["enum_values"]
            else:
                assert type(default).__name__ == option["type"]
            if "minimum" in option:
                assert option["minimum"] <= default <= option["maximum"]


def test_helloworld_writes_one_greeting_per_file(tmp_path):
    inputs = {"a.txt": Input(b"Ada\n", {}), "b.txt": Input("Zo\u00eb".encode(), {}), "c.txt": Input(b"", {})}
    done = run(HELLOWORLD, tmp_path, "say_hello", inputs)
    assert done.status == 0, done.stderr
    names = ["hello_a.txt", "hello_b.txt", "hello_c.txt"]
    assert done.report == {
        "name": "say_hello",
        "files": names,
        "files_created": names,
        "files_modified": [],
        "tags": [{"language": "en"}] * 3,
    }
    greetings = [done.path(name).read_text("utf-8") for name in names]
    assert greetings == ["Hello, Ada.\n", "Hello, Zo\u00eb.\n", "Hello, World.\n"]


def test_helloworld_uses_its_options_and_defaults(tmp_path):
    inputs = {"a.txt": Input(b"Ada", {})}
    loud = run(HELLOWORLD, tmp_path / "loud", "say_hello", inputs, greeting="Salut", excited=True)
    assert loud.path("hello_a.txt").read_text("utf-8") == "Salut, Ada!\n"
    null = run(HELLOWORLD, tmp_path / "null", "say_hello", inputs, greeting=None, excited=None)
    assert null.path("hello_a.txt").read_text("utf-8") == "Hello, Ada.\n"


def test_helloworld_fails_for_an_unknown_function(tmp_path):
    done = run(HELLOWORLD, tmp_path, "say_goodbye", {})
    assert (done.status, done.report) == (1, {})
    assert "say_goodbye" in done.stderr
