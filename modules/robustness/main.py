"""The command of the module: reads the job folder and calls the function. The exit status is 1 if the job fails."""

import os
import sys
from pathlib import Path

# One thread: jobs share the machine, and sums in another order have different last digits.
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
    """Execute the job in the folder MLAPI_JOB_DIR."""
    job = Job(Path(os.environ.get("MLAPI_JOB_DIR", "/mnt")))
    function = FUNCTIONS.get(job.function)
    if function is None:
        raise JobError(f"Unknown function {job.function!r}. Functions: {', '.join(FUNCTIONS)}.")
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
