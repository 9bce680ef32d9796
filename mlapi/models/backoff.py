"""Automatic retries: which failures of attempts are transient, and when their jobs are tried again."""

from typing import NamedTuple, Self

from mlapi.models.jobs import Job
from mlapi.settings import Settings

TIMEOUT = "timeout"
"""The failure of an attempt that a time limit ended."""

WORKER_LOST = "worker_lost"
"""The failure of an attempt whose worker was lost."""


class Retries(NamedTuple):
    """How often and when jobs are tried again: the settings `job_attempts`, `retry_base` and `retry_cap`."""

    attempts: int = 3
    base: float = 10.0
    cap: float = 600.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The retries of these settings."""
        return cls(settings.job_attempts, settings.retry_base, settings.retry_cap)

    def limit(self, job: Job) -> int:
        """The number of failures after which a job fails."""
        return self.attempts if job.attempts is None else job.attempts

    def delay(self, failures: int) -> float:
        """The seconds between a failure, the `failures`th of its job, and the next attempt."""
        return min(self.cap, self.base * 2.0 ** min(failures - 1, 62))


def is_transient(job: Job, exit_code: int | None = None, failure: str | None = None) -> bool:
    """Whether a job declares the cause of a failure as transient: the `failure`, or else the exit code.

    The exit code of an attempt that a time limit ended is that of the signal which stopped the function.
    """
    cause = exit_code if failure is None else failure
    return cause is not None and cause in (job.retry_on or [])
