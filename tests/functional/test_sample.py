"""The sample module in the real service: two equal runs have equal outputs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Service
from tests.support import API, ROOT

for needed in ("numpy", "sklearn", "matplotlib"):
    pytest.importorskip(needed)

ROBUSTNESS = ROOT / "modules" / "robustness"
STEPS = {
    "train": {"max_iterations": 20},
    "attack": {"steps": 2},
    "evaluate": {"steps": 2, "points": 3, "examples": 2},
}


def test_two_runs_over_the_same_file_create_equal_outputs(service: Service, tmp_path: Path) -> None:
    service.admin("createmodule", "robustness", str(ROBUSTNESS))
    digits = tmp_path / "digits.npz"
    subprocess.run([sys.executable, "-B", ROBUSTNESS / "make_digits.py", digits], check=True)
    file = service.upload("digits.npz", digits.read_bytes())
    functions = f"{API}/modules/robustness/functions"
    tasks = [{"function": f"{functions}/{name}", "arguments": options} for name, options in STEPS.items()]
    runs = [service.start(*tasks, files=[file["url"]], reuse=False) for _ in range(2)]
    made = []
    for run in runs:
        jobs = service.over(run, 90)
        assert [(job["status"], job["reason"]) for job in jobs] == [("FINISHED", None)] * 3
        outputs = [(job["position"], each["name"], each["sha256"]) for job in jobs for each in service.outputs(job)]
        made.append((outputs, [job["metrics"] for job in jobs]))
    assert made[0] == made[1]
    again = service.start(*tasks, files=[file["url"]])
    assert again["status"] == "FINISHED"
    assert [job["reused_from"] for job in service.jobs(again)] == [job["url"] for job in service.jobs(runs[0])]
    names = {name for _, name, _ in made[0][0]}
    assert names >= {"model.npz", "adversarial.npz", "accuracy.png", "examples.png", "report.json"}
    assert 0 < made[0][1][2]["adversarial_accuracy"] < made[0][1][2]["clean_accuracy"] <= 1
