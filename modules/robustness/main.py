"""Runs one job: reads its folder, calls the function it names, reports. Exit status 1 says it failed."""

import os
import sys
from pathlib import Path

# One thread: a job shares its machine with others, and sums in another order have other last digits.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import functions  # noqa: E402
from job import Job, JobError  # noqa: E402

FUNCTIONS = {
    "train": functions.train,
    "attack": functions.attack,
    "evaluate": functions.evaluate,
    "harden": functions.harden,
}


def main() -> None:
    """Do the job in the folder that MLAPI_JOB_DIR names."""
    job = Job(Path(os.environ.get("MLAPI_JOB_DIR", "/mnt")))
    function = FUNCTIONS.get(job.function)
    if function is None:
        raise JobError(f"There is no function {job.function!r}, only {', '.join(FUNCTIONS)}.")
    unknown = sorted(set(job.options) - set(function.__kwdefaults__))
    if unknown:
        raise JobError(f"{job.function} has no option {', '.join(unknown)}.")
    function(job, **job.options)
    job.write()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # so that the log grows while the job runs
    try:
        main()
    except JobError as error:
        sys.exit(f"robustness: {error}")
