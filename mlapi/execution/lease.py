"""The lease on an attempt: the time for which this runner may act for it."""

from __future__ import annotations

import time

FIRST_LEASE = 60.0
"""Seconds to reach the server before the length of the lease is known."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return monotonic seconds. On Linux they include the time for which the machine was suspended, as leases do."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """The lease on the attempt. Every heartbeat that is answered renews it."""

    def __init__(self) -> None:
        self.ended: str | None = None
        self._length = FIRST_LEASE
        self._until = now() + FIRST_LEASE

    def set_length(self, seconds: float) -> None:
        """Set the length of the server's lease. This one ends earlier, to leave time for killing the function."""
        self._length = seconds - min(5.0, seconds / 4)

    def renew(self, sent: float) -> None:
        """Renew the lease from the time a heartbeat was sent. The server's lease did not start earlier."""
        self._until = sent + self._length

    def end(self, reason: str) -> None:
        """End the lease, unless it has ended already."""
        if self.ended is None:
            self.ended = reason

    def remaining(self) -> float:
        """Return the seconds until the lease expires, and 0 if it has ended."""
        return 0.0 if self.ended else max(0.0, self._until - now())

    @property
    def over(self) -> bool:
        """Whether the lease has ended or expired."""
        if self.remaining() <= 0:
            self.end("No heartbeat was answered in time.")
        return self.ended is not None
