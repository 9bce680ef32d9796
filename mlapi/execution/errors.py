"""The exceptions of the runner."""

from __future__ import annotations

WORKER = "worker"
"""The fault of an attempt that its machine cannot run, as with a full disk."""

SERVICE = "service"
"""The fault of an attempt whose requests the service refuses."""

TIMEOUT = "timeout"
"""The failure of an attempt that a time limit ended."""


class AttemptOver(Exception):
    """The attempt has ended or belongs to another runner: nothing more may be sent for it."""


class TokenRefused(AttemptOver):
    """The service does not accept the token of the attempt: its key or its clock is not that of the scheduler."""


class Rejected(Exception):
    """A request that the server will never accept. The message is the server's reason."""


class Refused(Exception):
    """A request that the server could accept later, but has not for too long. The message is the server's reason."""


class Damaged(Exception):
    """A download that does not have the expected size and SHA-256."""


class NoResponse(Exception):
    """A request without a complete response. It may have had its effect."""


class JobFailed(Exception):
    """The job ends as FAILED. The message is the reason, for the user. `failure` is `TIMEOUT` or None."""

    def __init__(self, reason: str, failure: str | None = None) -> None:
        super().__init__(reason)
        self.failure = failure


class JobCancelled(Exception):
    """The job ends as CANCELLED."""


class JobReturned(Exception):
    """The job is handed back, to be queued again. `fault` is the cause, or None if the runner was told to stop."""

    def __init__(self, reason: str, fault: str | None = None) -> None:
        super().__init__(reason)
        self.fault = fault
