"""Demo of mlapi: a machine-learning security pipeline, executed by a REST client.

It prepares a service (database, users, modules), starts it with `pserve development.ini`, and then uses only HTTP: it
uploads scikit-learn's digits, composes train, attack, evaluate, harden, evaluate, runs them, and shows the results.
Then it sweeps the strength of the attack by a grid. The exit status is 1 if a job fails, or if its metrics differ from
its output files.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INI = ROOT / "development.ini"
FOLDER = ROOT / "var" / "demo"
BIN = Path(sys.executable).parent
OVER = ("FINISHED", "FAILED", "CANCELLED")
BAR = 24
STRENGTHS = [0.0, 0.05, 0.1, 0.15, 0.2]


class Client:
    """A minimal REST client."""

    def __init__(self, base: str) -> None:
        self.base, self.token = base, ""

    def __call__(self, method: str, url: str, body: Any = None, raw: bytes | None = None) -> Any:
        """Make a request; returns the JSON document of the response, or its bytes."""
        data = raw if body is None else json.dumps(body).encode()
        request = urllib.request.Request(urllib.parse.urljoin(self.base, url), data, method=method)
        request.add_header("Content-Type", "application/octet-stream" if body is None else "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content = answer.read()
                return json.loads(content) if answer.headers.get_content_type() == "application/json" else content
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {url}: {error.code} {error.read().decode()}") from None


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of this virtual environment; its output is shown only if it fails."""
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done


def prepare() -> dict[str, str]:
    """Create the database, an administrator and a user, and register the modules; returns the users' passwords.

    The commands create the database themselves, because development.ini says so.
    """
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    passwords = {}
    for name, role in (("admin", "admin"), ("ada", "user")):
        kept = FOLDER / f"{name}.password"
        if run("mlapi-admin", "-c", INI, "checkuserexists", name, check=False).returncode:
            kept.write_text(secrets.token_urlsafe(18))
            kept.chmod(0o600)
            run("mlapi-admin", "-c", INI, "createuser", name, "--role", role, "--password-file", kept)
        passwords[name] = kept.read_text()
    for module in ("helloworld", "robustness"):
        print(run("mlapi-admin", "-c", INI, "createmodule", module, ROOT / "modules" / module).stdout, end="")
    return passwords


def free_port(wanted: int) -> int:
    """The wanted port, or another one if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(port: int) -> Iterator[str]:
    """Run the service, with its scheduler, on a local port; yields its URL."""
    base = f"http://127.0.0.1:{port}"
    with (FOLDER / "service.log").open("ab") as log:
        server = subprocess.Popen(
            [BIN / "pserve", INI],
            cwd=ROOT,
            env={**os.environ, "MLAPI_PORT": str(port)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if server.poll() is not None:
                    raise SystemExit(f"The service did not start; see {FOLDER / 'service.log'}.")
                time.sleep(0.1)
            yield base
        finally:
            server.terminate()
            server.wait(timeout=20)


def compose(api: Client, user: str) -> dict[str, Any]:
    """Create the pipeline. `harden` follows `attack`, so it runs at the same time as the first `evaluate`."""
    pipeline = api("POST", f"{user}/pipelines", {"name": "Robustness of digits", "enabled": True})
    functions = "/api/v1/modules/robustness/functions"
    attack: dict[str, Any] = {"method": "pgd", "norm": "linf", "epsilon": 0.15}
    train = api("POST", pipeline["tasks"], {"function": f"{functions}/train", "arguments": {"seed": 7}})
    attacked = api("POST", pipeline["tasks"], {"function": f"{functions}/attack", "arguments": attack})
    api("POST", pipeline["tasks"], {"function": f"{functions}/evaluate", "arguments": attack})
    harden = {"function": f"{functions}/harden", "arguments": attack, "after": [attacked["url"]]}
    api("POST", pipeline["tasks"], harden)
    api("POST", pipeline["tasks"], {"function": f"{functions}/evaluate", "arguments": attack})
    assert train["position"] == 1
    return pipeline  # type: ignore[no-any-return]


def sweep(api: Client, user: str, file: dict[str, Any]) -> bool:
    """Attack with growing strengths, and print the accuracy by strength; returns whether all runs have finished."""
    pipeline = api("POST", f"{user}/pipelines", {"name": "Strength of the attack", "enabled": True})
    functions = "/api/v1/modules/robustness/functions"
    api("POST", pipeline["tasks"], {"function": f"{functions}/train", "arguments": {"seed": 7}})
    attack = api("POST", pipeline["tasks"], {"function": f"{functions}/attack", "inputs": ["*.npz"]})
    axis = {"tasks": [attack["url"]], "option": "epsilon", "values": STRENGTHS}
    grid = api("POST", pipeline["runs"], {"files": [file["url"]], "grid": [axis]})
    print(f"\nGrid {grid['url']} of {len(STRENGTHS)} runs:\n\n  strength  accuracy")
    while grid["progress"]["over"] < grid["progress"]["runs"]:
        time.sleep(0.1)
        grid = api("GET", grid["url"])
    for run in reversed(api("GET", grid["runs"])["items"]):
        *_, attacked = api("GET", run["jobs"])["items"]
        job = api("GET", attacked["url"])
        accuracy = job["metrics"].get("adversarial_accuracy")
        shown = job["reason"] or "" if accuracy is None else f"{accuracy:.3f} {'#' * round(BAR * accuracy)}"
        print(f"  {job['arguments']['epsilon']:8.2f}  {shown}")
    return grid["progress"]["statuses"] == {"FINISHED": len(STRENGTHS)}  # type: ignore[no-any-return]


def watch(api: Client, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Show the progress of all jobs until they have ended; returns their documents."""
    jobs: list[dict[str, Any]] = []
    shown = 0
    while True:
        jobs = [api("GET", job["url"]) for job in api("GET", run["jobs"])["items"]]
        if sys.stdout.isatty() and shown:
            print(f"\x1b[{shown}A", end="")
        if sys.stdout.isatty() or all(job["status"] in OVER for job in jobs):
            for job in jobs:
                print(f"\x1b[K  {line(job)}" if sys.stdout.isatty() else f"  {line(job)}")
            shown = len(jobs)
        if all(job["status"] in OVER for job in jobs):
            return jobs
        time.sleep(0.2)


def line(job: dict[str, Any]) -> str:
    """The progress of a job, as a line of text."""
    name = job["function"].rpartition("/")[2]
    if job["status"] in OVER:
        filled, note = BAR, job["reason"].partition("\n")[0] if job["reason"] else seconds(job)
    elif job["status"] == "RUNNING":
        filled, note = 1 + int(time.time() * 5) % (BAR - 1), ""
    else:
        filled, note = 0, ""
    return f"{job['position']} {name:9} [{'#' * filled:{BAR}}] {job['status']:9} {note}"


def seconds(job: dict[str, Any]) -> str:
    """The duration of a job, or that it was not executed because an earlier one answers it."""
    from datetime import datetime

    if job["reused_from"]:
        return "reused"
    if job["started"] is None:
        return "not started"
    started, ended = (datetime.fromisoformat(job[name]) for name in ("started", "ended"))
    return f"{(ended - started).total_seconds():.2f} s"


def results(api: Client, jobs: list[dict[str, Any]]) -> bool:
    """Print the metrics and save the plots; returns whether the metrics equal those in the output files."""
    consistent = True
    print(f"\n  {'job':24}{'clean':>8}{'attacked':>10}")
    for job in jobs:
        name = job["function"].rpartition("/")[2]
        metrics = job["metrics"]
        for url in job["outputs"]:
            file = api("GET", url)
            if name == "evaluate" and file["job"] in (job["url"], job["reused_from"]) and not file["parent"]:
                content = api("GET", file["content"])
                place = FOLDER / f"{job['position']}-{file['name']}"
                place.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
                if file["name"] == "report.json":
                    report = json.loads(place.read_bytes())
                    consistent &= all(
                        report[each] == metrics[each] for each in ("clean_accuracy", "adversarial_accuracy")
                    )
        figures = [metrics.get(each) for each in ("clean_accuracy", "adversarial_accuracy")]
        if None not in figures:
            print(f"  {job['position']} {name:22}{figures[0]:>8.3f}{figures[1]:>10.3f}")
    return consistent


def look_around(base: str, run: dict[str, Any], job: dict[str, Any]) -> None:
    """Print requests that can be pasted into another terminal."""
    print("\nPaste into another terminal:\n")
    print(f"  TOKEN=$({shlex.quote(str(BIN / 'mlapi-admin'))} createtoken ada -c {shlex.quote(str(INI))})")
    for url in (run["url"], job["url"], job["log"], f"{base}/api/v1/modules/robustness"):
        print(f'  curl -H "Authorization: Bearer $TOKEN" {url}')


def main() -> int:
    """Run the demo; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--exit", action="store_true", help="exit after showing the results")
    parser.add_argument("--port", type=int, default=int(os.environ.get("MLAPI_PORT", "6543")))
    arguments = parser.parse_args()
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # Exit through `finally`, which stops the service.
    passwords = prepare()
    digits = FOLDER / "digits.npz"
    subprocess.run([sys.executable, ROOT / "modules" / "robustness" / "make_digits.py", digits], check=True)
    with service(free_port(arguments.port)) as base:
        api = Client(base)
        credentials = {"name": "ada", "password": passwords["ada"]}
        api.token = api("POST", "/api/v1/auth/token", credentials)["access_token"]
        user = "/api/v1/users/ada"
        file = api("PUT", f"{user}/files?name=digits.npz", raw=digits.read_bytes())
        pipeline = compose(api, user)
        run = api("POST", pipeline["runs"], {"files": [file["url"]]})
        print(f"\nRun {run['url']} over {file['name']} ({file['size']} bytes):\n")
        jobs = watch(api, run)
        consistent = results(api, jobs)
        good = consistent and all(job["status"] == "FINISHED" for job in jobs)
        for job in jobs:
            if job["status"] == "FAILED":
                print(f"\n{line(job)}\n{job['reason']}")
        if reused := [job["reused_from"] for job in jobs if job["reused_from"]]:
            print(f"\n{len(reused)} of {len(jobs)} jobs were answered by earlier ones: the last by {reused[-1]}.")
        print(f"\nPlots and reports are in {FOLDER.relative_to(ROOT)}/.")
        good &= sweep(api, user, file)
        if not consistent:
            print("\nThe metrics of a job differ from its output files.")
        if not arguments.exit:
            look_around(base, run, jobs[-1])
            print(
                f"\nServing on {base} until Ctrl-C. Log in as ada or admin; their passwords are in var/demo/.",
                flush=True,
            )
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
