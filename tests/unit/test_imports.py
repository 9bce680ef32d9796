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
    "mlapi.execution.client",
    "mlapi.execution.contract",
    "mlapi.execution.deliver",
    "mlapi.execution.errors",
    "mlapi.execution.fetch",
    "mlapi.execution.heartbeat",
    "mlapi.execution.lease",
    "mlapi.execution.log",
    "mlapi.execution.outputs",
    "mlapi.execution.process",
    "mlapi.execution.runner",
    "mlapi.execution.watch",
    "mlapi.execution.workspace",
    "mlapi.file_names",
    "mlapi.strict_json",
}
"""The runner and its parts."""


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
    ("file", "line", "contract"),
    [
        ("models/files.py", "from mlapi.http import problems", "Imports go down the layers only"),
        ("resources/fields.py", "from mlapi.schemas import pages", "Imports go down the layers only"),
        ("execution/errors.py", "from mlapi.views import answers", "Imports go down the layers only"),
        ("novelty.py", "from mlapi import errors", "Imports go down the layers only"),
        ("models/base.py", "from mlapi.models.jobs import Job", "No cycles between the files of a room"),
        ("models/files.py", "import pyramid.response", "Models and archives know nothing of HTTP"),
        ("resources/tree.py", "import cornice", "Services are the only users of cornice"),
        ("archives/readers.py", "from mlapi.errors import Invalid\nimport yaml", "The runner imports its own parts"),
    ],
)
def test_a_wrong_import_is_refused(copy, file, line, contract):
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
