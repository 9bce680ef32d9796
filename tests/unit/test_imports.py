"""The import contracts of pyproject.toml hold, and each of them refuses a wrong import."""

import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]

RUNNER = {
    "mlapi.archives",
    "mlapi.archives.canonical",
    "mlapi.archives.limits",
    "mlapi.archives.readers",
    "mlapi.execution",
    "mlapi.execution.bounds",
    "mlapi.execution.watchdog",
    "mlapi.execution.client",
    "mlapi.execution.conclusion",
    "mlapi.execution.contract",
    "mlapi.execution.deliver",
    "mlapi.execution.errors",
    "mlapi.execution.fetch",
    "mlapi.execution.heartbeat",
    "mlapi.execution.lease",
    "mlapi.execution.leftovers",
    "mlapi.execution.log",
    "mlapi.execution.outputs",
    "mlapi.execution.process",
    "mlapi.execution.runner",
    "mlapi.execution.series",
    "mlapi.execution.watch",
    "mlapi.execution.workspace",
    "mlapi.file_names",
    "mlapi.scratch",
    "mlapi.strict_json",
}
"""The runner and its parts."""


WRONG = {
    "Imports go down the layers only": [
        ("models/files.py", "from mlapi.http import problems"),
        ("resources/fields.py", "from mlapi.schemas import pages"),
        ("execution/errors.py", "from mlapi.views import answers"),
        ("storage/local.py", "def late():\n    from mlapi import security"),
        ("novelty.py", "from mlapi import errors"),
    ],
    "No cycles within a package": [("models/base.py", "from mlapi.models.jobs import Job")],
    "Models and archives are independent of HTTP": [("models/files.py", "import pyramid.response")],
    "Only services use cornice": [("resources/tree.py", "import cornice")],
    "The runner is independent of the service and of other packages": [("archives/readers.py", "import yaml")],
}
"""Wrong imports, with the contract that refuses them; a new file needs a layer."""


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("mlapi", include_external_packages=True, cache_dir=None)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package and of its contracts."""
    shutil.copytree(ROOT / "mlapi", tmp_path / "mlapi", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder):
    """The exit status and the output of the check of a folder."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_hold():
    status, output = lint(ROOT)
    assert status == 0, output


@pytest.mark.parametrize(
    ("contract", "file", "line"), [(contract, *case) for contract, cases in WRONG.items() for case in cases]
)
def test_a_wrong_import_is_refused(copy, contract, file, line):
    with (copy / "mlapi" / file).open("a") as source:
        source.write(f"\n{line}\n")
    status, output = lint(copy)
    assert status == 1, output
    assert contract in output.partition("Broken contracts")[2]


def test_no_file_imports_itself_by_way_of_others(graph):
    files = [name for name in graph.modules if name.partition(".")[0] == "mlapi"]
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in files}).prepare()


def test_the_runner_imports_its_own_parts_and_the_standard_library(graph):
    imported = graph.find_upstream_modules("mlapi.execution.runner")
    assert {name for name in imported if name not in sys.stdlib_module_names} <= RUNNER
