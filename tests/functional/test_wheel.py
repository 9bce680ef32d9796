"""The wheel, installed in an empty environment: the service runs without the checkout."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Http, Process, family, free_port, wait_for
from tests.support import PASSWORD, ROOT

SOURCES = ("LICENSE", "README.md", "development.ini", "production.ini", "pyproject.toml", "setup.py")


class Installed:
    """An environment with the wheel and, by a path, the packages on which it depends; nothing of the checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "home"
        self.folder.mkdir()
        self.python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.python.parents[1]], check=True)
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, wheel], check=True)
        [packages] = self.python.parents[1].glob("lib/*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        other = {"PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
        self.environ = {name: value for name, value in os.environ.items() if name not in other}

    def command(self, *words: str | Path) -> list[str | Path]:
        """The command line of a program; those of the dependencies are modules here."""
        modules = {"pserve": "pyramid.scripts.pserve", "alembic": "alembic"}
        if words[0] in modules:
            return [self.python, "-m", modules[str(words[0])], *words[1:]]
        return [self.python.with_name(str(words[0])), *words[1:]]

    def run(self, *words: str | Path, **environ: str) -> str:
        """Run a program; returns its output."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: Any) -> Installed:
    """The wheel, built from a copy of the checkout and installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("alembic", "mlapi"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True)
    shutil.rmtree(source)
    [wheel] = folder.glob("*.whl")
    return Installed(folder, wheel)


@pytest.fixture
def started(installed: Installed) -> Iterator[Any]:
    """A function that starts a program, which is killed at the end with its descendants."""
    noted: list[Process] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str | Path, **environ: str) -> subprocess.Popen[bytes]:
        with (installed.folder / f"{words[0]}.log").open("wb") as log:
            made = subprocess.Popen(
                installed.command(*words),
                cwd=installed.folder,
                env={**installed.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        processes.append(made)
        return made

    yield start
    for each in processes:
        noted += family(each.pid)
        each.terminate()
    for each in processes:
        each.wait(timeout=20)
    for one in noted:
        one.send(signal.SIGKILL)


def test_the_service_runs_without_the_checkout(installed: Installed, started: Any) -> None:
    port = free_port()
    environ = {"MLAPI_PORT": str(port), "MLAPI_DRAIN_TIMEOUT": "1"}
    ini, password = installed.folder / "service" / "production.ini", installed.folder / "password"
    assert f"Created {ini}." in (shown := installed.run("mlapi-admin", "init", "service"))
    assert f"mlapi-admin -c {ini} createuser" in shown
    assert "Created" not in installed.run("mlapi-admin", "init", "service")  # The ini file is kept.
    assert {path.stat().st_mode & 0o077 for path in (ini, ini.parent, ini.parent / "var")} == {0}
    where = installed.run("python", "-c", "import mlapi; print(mlapi.__file__)")
    assert Path(where).is_relative_to(installed.python.parents[1])
    assert installed.run("alembic", "-c", ini, "current").strip().endswith("(head)")

    password.write_text(PASSWORD)
    installed.run("mlapi-admin", "-c", ini, "createuser", "ada", "--password-file", password)
    installed.run("mlapi-admin", "-c", ini, "createmodule", "helloworld", ROOT / "modules" / "helloworld")
    started("pserve", ini, **environ)
    started("mlapi-scheduler", ini, **environ)
    api = Http(port)

    def ready() -> bool:
        try:
            return api("GET", "/health/ready", status=200).json["status"] == "ready"
        except (OSError, AssertionError):
            return False

    wait_for(ready, "the service and its scheduler")
    token = api("POST", "auth/token", {"name": "ada", "password": PASSWORD}).json["access_token"]
    api = Http(port, token)
    file = api("PUT", "users/ada/files?name=grace.txt", body=b"Grace", status=201).json["url"]
    pipeline = api("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json
    task = {"function": "/api/v1/modules/helloworld/functions/say_hello"}
    api("POST", pipeline["tasks"], task, status=201)
    run = api("POST", pipeline["runs"], {"files": [file]}, status=201).json
    wait_for(lambda: api("GET", run["url"]).json["status"] == "FINISHED", "the end of the run")
