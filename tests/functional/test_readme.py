"""The requests in the README, executed by a shell, unchanged, against the real service."""

import os
import re
import subprocess

from tests.processes import Service
from tests.support import PASSWORD, ROOT


def blocks() -> list[str]:
    """The shell blocks of the README that use the API."""
    text = (ROOT / "README.md").read_text()
    return [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "curl" in block]


def test_the_first_five_requests_and_what_follows(service: Service, tmp_path):
    (tmp_path / "var" / "demo").mkdir(parents=True)
    (tmp_path / "var" / "demo" / "ada.password").write_text(PASSWORD)
    requests, results = blocks()
    environ = {**os.environ, "API": f"http://127.0.0.1:{service.port}/api/v1"}

    def shell(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    run = shell(f'{requests}\necho; echo "RUN=$RUN"; echo "ME=$ME"').rpartition("RUN=")[2].splitlines()
    environ |= {"RUN": run[0], "ME": run[1].removeprefix("ME=")}
    [job] = service.over({"url": run[0], "jobs": f"{run[0]}/jobs"})
    assert job["status"] == "FINISHED"
    assert [service.text(f"{url}/content") for url in job["outputs"]] == ["Hello, Grace Hopper!\n"]

    shown = shell(results)
    assert job["url"] in shown
    assert "hello_grace.txt" in shown
