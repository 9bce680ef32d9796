"""Turns of the writers of SQLite in this process, which has one writer at a time."""

import threading
from collections import deque
from time import monotonic
from typing import Any

PATIENCE = 0.8
"""Seconds that a writer beyond the limit waits."""


class Busy(Exception):
    """A writer did not get its turn in time."""


class Turns:
    """A queue of writers: the first one writes, and the others wait in the order of their arrival.

    Writers beyond the first `limit` are refused once they have waited for `PATIENCE`, or the current turn has taken as
    long: each of them occupies a thread and a connection, which readers need.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken, self._began = False, 0.0

    def take(self, seconds: float) -> float:
        """Wait for the turn for at most a number of seconds; returns how many are left. Raises `Busy`."""
        with self._lock:
            if not self._taken:
                self._taken, self._began = True, monotonic()
                return seconds
            turn = threading.Event()
            self._waiting.append(turn)
        arrived = monotonic()
        while True:
            with self._lock:
                if turn.is_set():
                    return max(arrived + seconds - monotonic(), 0.0)
                left = self._deadline(turn, arrived, seconds) - monotonic()
                if left <= 0:
                    self._waiting.remove(turn)
                    raise Busy(f"{len(self._waiting) + 1} others write to the database, or wait to do so.")
            turn.wait(left)

    def end(self) -> None:
        """End the turn of the writer that has it."""
        with self._lock:
            if self._waiting:
                self._began = monotonic()
                self._waiting.popleft().set()
            else:
                self._taken = False

    def _deadline(self, turn: threading.Event, arrived: float, seconds: float) -> float:
        """The time at which a waiting writer is refused."""
        if self._waiting.index(turn) + 1 < self.limit:
            return arrived + seconds
        return min(arrived + seconds, min(arrived, self._began) + PATIENCE)


def busy_timeout(seconds: float) -> str:
    """The statement that sets how long a connection waits for a lock."""
    return f"PRAGMA busy_timeout={seconds * 1000:.0f}"


# Any: the class of the driver, which is selected at run time, comes next in the order of the base classes.
_Driver: Any = object


class TurnTaking(_Driver):
    """A connection to SQLite that writes only in its turn; the base class of a subclass of the driver's connection."""

    def __init__(self, turns: Turns, timeout: float, *arguments: object, **parameters: object) -> None:
        super().__init__(*arguments, **parameters)
        self._turns, self._timeout, self._has_turn = turns, timeout, False

    def begin(self, mode: str) -> None:
        """Begin a transaction, IMMEDIATE or DEFERRED. Raises `Busy`, and the errors of the driver."""
        if mode == "DEFERRED":
            self.execute("BEGIN DEFERRED")
            return
        left = self._turns.take(self._timeout)
        self._has_turn = True
        try:
            self._begin_writing(left)
        except BaseException:
            self._end_turn()
            raise

    def _begin_writing(self, left: float) -> None:
        """Begin a transaction that takes the lock, which another process may hold, within the seconds that are left."""
        if left < self._timeout:
            self.execute(busy_timeout(left))
        try:
            self.execute("BEGIN IMMEDIATE")
        finally:
            if left < self._timeout:
                self.execute(busy_timeout(self._timeout))

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turns.end()

    def commit(self) -> None:
        """Commit, or roll back if that fails, which SQLAlchemy does not; end the turn."""
        try:
            super().commit()
        except BaseException:
            self.rollback()
            raise
        self._end_turn()

    def rollback(self) -> None:
        """Roll back, and end the turn."""
        try:
            super().rollback()
        finally:
            self._end_turn()

    def close(self) -> None:
        """Close the connection, and end the turn."""
        try:
            super().close()
        finally:
            self._end_turn()
