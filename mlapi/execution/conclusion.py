"""The conclusion of an attempt: the report of whatever ended it before it had a result."""

from __future__ import annotations

import errno

from mlapi.execution.errors import SERVICE, WORKER, JobCancelled, JobFailed, JobReturned, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.contract import Report
    from mlapi.execution.log import Log

REASON_LIMIT = 1000
"""The maximum number of characters of a reason."""

MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EIO,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
        errno.EACCES,
        errno.EPERM,
    }
)
"""Errors of the system that are faults of the machine, not of the job: disks, memory, processes and permissions."""


def conclusion(error: Exception) -> Report:
    """Return the report of an attempt that this exception ended."""
    match error:
        case JobCancelled():
            return unsuccessful("CANCELLED", "Cancelled while it ran.")
        case JobReturned():
            return handed_back(str(error), error.fault)
        case JobFailed():
            return failed(error)
        case Refused():
            return handed_back(f"The service refused a request for too long: {error}", SERVICE)
    if fault := machine_fault(error):
        return handed_back(f"The machine cannot run jobs: {fault}.", WORKER)
    return unsuccessful("FAILED", f"The runner failed: {type(error).__name__}: {_words(error)}")


def explained(failure: JobFailed, log: Log | None) -> JobFailed:
    """Return the failure of a function with the last lines of its log, if it wrote any."""
    lines = log.last_lines() if log is not None else ""
    return JobFailed(f"{failure} The log ends with:\n{lines}", failure.failure) if lines else failure


def machine_fault(error: Exception) -> str | None:
    """Return what is wrong with the machine, or None if an exception has another cause."""
    if isinstance(error, OSError) and error.errno in MACHINE:
        return _words(error)
    if isinstance(error, MemoryError):
        return "out of memory"
    # The only error of `Thread.start`, which does not say more.
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "no more threads"
    return None


def _words(error: Exception) -> str:
    """Return the words of an exception, without paths of the machine."""
    return getattr(error, "strerror", None) or str(error)


def failed(error: JobFailed) -> Report:
    """Return the report of an attempt that failed so."""
    report = unsuccessful("FAILED", str(error))
    if error.failure is not None:
        report["failure"] = error.failure
    return report


def unsuccessful(status: str, reason: str) -> Report:
    """Return the report of an attempt that failed or was cancelled."""
    return {"status": status, "reason": _shortened(reason), "metrics": {}}


def handed_back(reason: str, fault: str | None) -> Report:
    """Return the report of an attempt that hands its job back."""
    return {"status": "RETURNED", "reason": _shortened(reason), "fault": fault}


def _shortened(reason: str) -> str:
    return reason if len(reason) <= REASON_LIMIT else reason[: REASON_LIMIT - 1] + "…"
