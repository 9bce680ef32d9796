"""The manual as a newcomer follows it: every shell command of README.md, docs/operation.md and docs/modules.md.

The pages are executed as printed, in a copy of the repository, by an ordinary user with an empty home. One service of
`make demo` and one of "Production" are shared by all blocks.

- The virtual environment of the copy sees the packages of this one, so that pip checks the locks but downloads nothing.
- `MLAPI_PORT` and `API` choose free ports.
- `make test` is not executed, because it executes this. The commands of the demo "without make" are those of make.
- Blocks in other languages are not for this shell. `console` needs root and systemd, which verifies the units in
  another test; `nginx` is a sample, and a test makes the requests that it would make; `ini` is a part of a file;
  `python` is for pshell (test_shell.py); `yaml` is read as a manifest.
"""

import os
import pty
import pwd
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from pyramid.paster import get_app
from waitress.proxy_headers import proxy_headers_middleware
from webtest import TestApp

from mlapi.archives import manifests
from tests.processes import Http, family, free_port, wait_for
from tests.support import API, ROOT, command

pytestmark = pytest.mark.timeout(600)

LANGUAGES = {"sh", "console", "ini", "nginx", "python", "yaml", ""}
SECRET = "a long new password"
ANSWERS = {"Password: ": SECRET, "Again: ": SECRET, ">>> ": "exit()", "[Enter] ": ""}
"""What the user types at a prompt."""

NOBODY = "nobody"
CHANGE_USER = ["setpriv", f"--reuid={NOBODY}", "--regid=nogroup", "--clear-groups"]
# So that the library of an interpreter in root's home can be read; nothing more can be written.
READ_ALL = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"]


def blocks(page: str, language: str = "sh") -> list[str]:
    """The blocks of a page in a language."""
    text = (ROOT / page).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert {name for name, _ in found} <= LANGUAGES
    assert len(found) * 2 == text.count("```"), page
    return [block for name, block in found if name == language]


class Newcomer:
    """An ordinary user with an empty home and a copy of the repository."""

    def __init__(self, folder: Path) -> None:
        self.home, self.copy = folder / "home", folder / "mlapi"
        self.home.mkdir()
        ignored = shutil.ignore_patterns(".git", ".venv", "var", "build", "__pycache__", "*.egg-info", ".*_cache")
        shutil.copytree(ROOT, self.copy, ignore=ignored)
        self._install()
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            self._as_user = [*CHANGE_USER, *READ_ALL]
            user = pwd.getpwnam(NOBODY)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        python = os.path.dirname(os.path.realpath(sys.executable))
        self.environ = {
            "HOME": str(self.home),
            "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PIP_NO_INDEX": "1",
        }
        self._started: list[subprocess.Popen[Any]] = []

    def _install(self) -> None:
        """Create the virtual environment with the packages of this one, and with the commands that they install."""
        venv, own = self.copy / ".venv", [path for path in sys.path if path.endswith("site-packages")]
        packages = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        packages.mkdir(parents=True)
        (packages / "installed.pth").write_text("\n".join(own))
        (venv / "bin").mkdir()
        for name in ("python", "python3"):  # Not links: others cannot execute what is in root's home.
            shutil.copy2(os.path.realpath(sys.executable), venv / "bin" / name)
        for name in ("pip", "pserve", "pshell", "alembic"):
            (point,) = entry_points(group="console_scripts", name=name)
            script = venv / "bin" / name
            script.write_text(f"#!{venv}/bin/python\nimport sys\nfrom {point.module} import {point.attr} as main\n")
            script.write_text(f"{script.read_text()}sys.exit(main())\n")
            script.chmod(0o755)

    def start(self, script: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start a script in a terminal window; its output is in `log`."""
        with self.log(len(self._started)).open("wb") as log:
            started = subprocess.Popen(
                [*self._as_user, "bash", "-euo", "pipefail", "-c", script],
                cwd=self.copy,
                env=self.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(started)
        return started

    def log(self, number: int) -> Path:
        """The output of a script that was started."""
        return self.home.parent / f"log{number}"

    def run(self, script: str, **environ: str) -> str:
        """Run a script to its end; returns its output."""
        started = self.start(script, **environ)
        status = started.wait(timeout=120)
        output = self.log(self._started.index(started)).read_text()
        assert status == 0, output
        return output

    def type(self, script: str, **environ: str) -> Iterator[str]:
        """Run a script in a terminal, and type an answer at every prompt; yields the output before each of them."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.copy)
            words = [*self._as_user, "bash", "-euo", "pipefail", "-c", script]
            os.execvpe(words[0], words, self.environ | environ)
        output, end = "", time.monotonic() + 120
        status = None
        try:
            while select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
                try:
                    output += os.read(terminal, 65536).decode(errors="replace")
                except OSError:  # The end of all processes of the terminal.
                    break
                for prompt in ANSWERS:
                    if output.endswith(prompt):
                        yield output
                        os.write(terminal, f"{ANSWERS[prompt]}\n".encode())
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status == 0, output
            yield output
        finally:
            if status is None:
                kill([pid, *(each.pid for each in family(pid))])
                os.waitpid(pid, 0)
            os.close(terminal)

    def close(self) -> None:
        """End everything that was started."""
        for started in self._started:
            below = [each.pid for each in family(started.pid)]
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
                started.wait(timeout=30)
            kill(below)


def kill(pids: list[int]) -> None:
    """Kill processes, if they are still running."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="module")
def newcomer() -> Iterator[Newcomer]:
    """The user, in a folder that others than root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="mlapi-newcomer-"))
    user = Newcomer(folder)
    try:
        yield user
    finally:
        user.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def demo(newcomer: Newcomer) -> tuple[str, str]:
    """The output of `make demo`, which serves until the end of the tests, and the URL of its API."""
    served = newcomer.start(blocks("README.md")[0], MLAPI_PORT=str(free_port()))
    log = newcomer.log(0)

    def serving() -> Any:
        assert served.poll() is None, log.read_text()
        return re.search(r"Serving on (\S+) until", log.read_text())

    found = wait_for(serving, "the demo", 300)
    return log.read_text(), f"{found[1]}/api/v1"


def test_the_readme(newcomer: Newcomer, demo: tuple[str, str]) -> None:
    make, without_make, test, requests, results, production = blocks("README.md")
    assert (make, test) == ("make demo\n", "make test\n")
    commands = newcomer.run("make --always-make --dry-run demo").replace(" --quiet --disable-pip-version-check", "")
    assert without_make.splitlines() == [line.strip() for line in commands.splitlines() if "touch" not in line]

    finished = 'until curl -sS -H "$ME" "$RUN/jobs" | grep -q FINISHED; do sleep 0.2; done\n'
    output = newcomer.run(f"{requests}\n{finished}{results}", API=demo[1])
    assert '"status":"FINISHED"' in output
    assert '"name":"hello_grace.txt"' in output

    assert production.count("\n") == 5


def test_the_lines_that_the_demo_prints_can_be_pasted(newcomer: Newcomer, demo: tuple[str, str]) -> None:
    lines = re.findall(r"^  ((?:TOKEN|curl).*)$", demo[0], re.MULTILINE)
    assert len(lines) == 5
    output = newcomer.run("\n".join(lines))
    for shown in ('"progress":', '"metrics":', '"display_name":'):
        assert shown in output
    assert '"status":401' not in output


def test_how_to_write_a_module(newcomer: Newcomer, demo: tuple[str, str], tmp_path: Path) -> None:
    (register,) = blocks("docs/modules.md")
    output = newcomer.run(register, API=demo[1])
    assert "Registered greeter, version 1" in output
    assert '"name":"greeter"' in output
    (manifest,) = blocks("docs/modules.md", "yaml")
    (tmp_path / "mlapi.yaml").write_text(manifest)
    (tmp_path / "main.py").touch()
    assert [function.name for function in manifests.read(tmp_path).functions] == ["attack"]


def test_production_and_its_operation(newcomer: Newcomer) -> None:
    *_, production = blocks("README.md")
    api = Http(port := free_port())
    operation = "\n".join(["PATH=$PWD/.venv/bin:$PATH", *blocks("docs/operation.md")])
    ready = f"until curl -s 127.0.0.1:{port}/health/live; do sleep 0.1; done"
    script = f"{production}\n{ready}\n{operation}\nread -rp '[Enter] '\nkill %1 %2\nwait\n"
    for output in newcomer.type(script, MLAPI_PORT=str(port)):
        if output.endswith("[Enter] "):
            wait_for(lambda: api("GET", API).json["scheduler"], "the scheduler")
            token = api("POST", "auth/token", {"name": "alice", "password": SECRET}).json["access_token"]
            assert Http(port, token)("GET", "users/alice").json["role"] == "admin"
    assert "Created admin alice." in output
    assert '"name":"gpu"' in output.replace(" ", "")
    assert "Locked gpu." in output
    assert "No violations." in output
    assert "Traceback" not in output
    made = {path.name: oct(path.stat().st_mode & 0o777) for path in (newcomer.home / "mlapi").iterdir()}
    assert made.keys() >= {"mlapi.db", "secret_key", "files", "scratch", "backup.db", "backup.tar.gz"}
    assert (made["mlapi.db"], made["secret_key"], made["files"]) == ("0o600", "0o600", "0o700")


UNITS = list((ROOT / "docs" / "systemd").glob("*.service"))


def test_the_units_of_systemd_are_valid(tmp_path: Path) -> None:
    texts = {unit.stem: unit.read_text() for unit in UNITS}
    assert texts.keys() == {"mlapi", "mlapi-scheduler"}
    assert "KillMode=process\n" in texts["mlapi-scheduler"]  # The next scheduler adopts its runners.
    (wait,) = re.findall(r"^TimeoutStopSec=(\d+)$", texts["mlapi"], re.MULTILINE)
    assert int(wait) > 30  # drain_timeout
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    for unit in UNITS:
        here = texts[unit.stem].replace("/opt/mlapi/.venv/bin", os.path.dirname(command("pserve")))
        (tmp_path / unit.name).write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.glob("*.service")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def proxied(ini: Path, app: Any, tmp_path: Path) -> Iterator[TestApp]:
    """The application behind a proxy, with the options of production.ini that are commented out."""
    sample = (ROOT / "production.ini").read_text()
    hosts = re.findall(r"^# (mlapi.allowed_hosts = .*)$", sample, re.MULTILINE)
    options = dict(re.findall(r"^# (trusted_proxy\w*) = (.*)$", sample, re.MULTILINE))
    copy = tmp_path / "proxied.ini"
    copy.write_text(ini.read_text().replace("use = egg:mlapi\n", f"use = egg:mlapi\n{hosts[0]}\n", 1))
    inner = get_app(str(copy))
    made = proxy_headers_middleware(
        inner,
        trusted_proxy=options["trusted_proxy"],
        trusted_proxy_count=int(options["trusted_proxy_count"]),
        trusted_proxy_headers=set(options["trusted_proxy_headers"].split()),
        clear_untrusted=True,
    )
    yield TestApp(made, extra_environ={"REMOTE_ADDR": options["trusted_proxy"], "SERVER_PORT": "6543"})
    inner.registry.database.engine.dispose()


def test_a_client_does_not_choose_the_host_in_links(proxied: TestApp) -> None:
    (sample,) = blocks("docs/operation.md", "nginx")
    sent = dict(re.findall(r'proxy_set_header (\S+) "?(.*?)"?;', sample))
    (name,) = re.findall(r"server_name (\S+);", sample)
    client = {"Host": name, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "X-Forwarded-For": "::1"}
    nginx = {"$host": name, "$scheme": "https", "$remote_addr": "192.0.2.1"}
    passed = client | {header: nginx.get(value, value) for header, value in sent.items()}
    for headers in (passed, {**passed, "X-Forwarded-Host": "evil.example"}):
        headers = {header: value for header, value in headers.items() if value}
        assert proxied.get("/api/v1", headers=headers).json["users"] == f"https://{name}/api/v1/users"
    direct = proxied.get("/api/v1", headers={"Host": "127.0.0.1:6543"}, extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    assert direct.json["users"].endswith("127.0.0.1:6543/api/v1/users")  # As the scheduler asks.
