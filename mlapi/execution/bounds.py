"""The bounds of an attempt: the one place that ends it, in whatever phase it is."""

from __future__ import annotations

import time

from mlapi.execution.errors import TIMEOUT, AttemptOver, JobCancelled, JobFailed, JobReturned, Refused
from mlapi.execution.lease import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mlapi.execution.lease import Lease

PATIENCE = 300.0
"""Seconds for which a refused request is repeated, unless the attempt has its own bound."""

TRANSFER = 5.0
"""Seconds that every phase of transfer has at least, also for a job with a shorter time limit."""

INTERVAL = 0.1
"""Seconds between two checks of the bounds while nothing else happens."""


class Bounds:
    """The bounds of an attempt: its lease, a stop of the runner, a cancellation, and the time limit of each phase.

    Everything that can take long calls `check` or `sleep`. `patience` is the number of seconds for which a refused
    request is repeated, `refusal` the last refusal of a request that is being repeated, and `reporting` whether the
    report has been sent.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease, self.patience = lease, PATIENCE
        self.cancelled = self.stopped = self.reporting = False
        self.refusal = ""
        self.renew: Callable[[], None] | None = None
        self._deadline, self._overdue = float("inf"), ""
        self._transfer = self._concluding = False

    def stop(self) -> None:
        """End the attempt and hand the job back. This takes no lock, so that a signal handler may call it."""
        self.stopped = True

    def begin(self, overdue: str, limit: float) -> None:
        """Begin a phase of at most `limit` seconds. `overdue` is the reason of the failure if it takes longer."""
        self._deadline, self._overdue, self._transfer = now() + limit, overdue, False

    def begin_transfer(self, overdue: str, limit: float) -> None:
        """Begin a phase of transfer. `overdue` has a placeholder for the seconds it may take."""
        limit = max(limit, TRANSFER)
        self.begin(overdue.format(f"{limit:g}"), limit)
        self._transfer = True

    def conclude(self, seconds: float) -> None:
        """From now on, only the lease and these seconds end the attempt: its end is decided and has to be reported."""
        self._deadline, self._concluding = now() + seconds, True

    def remaining(self) -> float:
        """Return the seconds until the phase or the lease ends."""
        return max(0.0, min(self.lease.remaining(), self._deadline - now()))

    def end(self) -> Exception | None:
        """Return the exception that ends the attempt, or None if it may go on."""
        if self.lease.over:
            return AttemptOver(self.lease.ended)
        late = now() >= self._deadline
        if self._concluding:
            return Refused(self.refusal or "no response in time") if late else None
        if self.cancelled:
            return JobCancelled()
        if self.stopped:
            return JobReturned("The runner was told to stop.")
        if late:
            return JobFailed(f"{self._overdue} {self.refusal if self._transfer else ''}".rstrip(), TIMEOUT)
        return None

    def check(self) -> None:
        """Raise the exception that ends the attempt, if there is one."""
        if self.renew is not None:
            self.renew()
        end = self.end()
        if end is not None:
            raise end

    def sleep(self, seconds: float) -> None:
        """Sleep, or raise the exception that ends the attempt in the meantime."""
        until = now() + seconds
        self.check()
        while (left := until - now()) > 0:
            time.sleep(min(left, INTERVAL))
            self.check()
