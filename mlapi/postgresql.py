"""Connections to PostgreSQL that wait for an answer only for a limited time, and the memory of an outage.

libpq waits for an answer without a limit, and neither `statement_timeout` nor TCP's timeouts help if the server is
frozen: it cancels nothing, and its kernel still acknowledges (docs/decisions/0017).
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds between two attempts to connect to a database that does not answer."""

GRACE = 1.0
"""Seconds after the time limit of a statement within which the server has to report it."""


class NoAnswer(psycopg.OperationalError):
    """The database does not answer."""


class Outage:
    """Whether the database is known not to answer, shared by the connections of an engine.

    During an outage, one attempt to connect at a time tests the database, and all others fail at once: a frozen
    database holds one thread at most.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._retry: float | None = None
        self._testing = False

    def begin(self) -> None:
        """Note that the database did not answer in time."""
        with self._lock:
            if self._retry is None:
                log.error("The database does not answer. Requests are refused until it does.")
            self._retry = monotonic() + PAUSE

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Surround an attempt to connect. Raises `NoAnswer` at once during an outage, unless this is the test."""
        testing = self._is_test()
        try:
            yield
        except psycopg.errors.ConnectionTimeout:
            self.begin()
            raise
        else:
            if testing:
                self._end()
        finally:
            if testing:
                self._testing = False

    def _is_test(self) -> bool:
        """Whether this attempt to connect tests the database. Raises `NoAnswer` if it must not be made."""
        with self._lock:
            if self._retry is None:
                return False
            if self._testing or monotonic() < self._retry:
                raise NoAnswer("The database does not answer.")
            self._testing = True
            return True

    def _end(self) -> None:
        with self._lock:
            self._retry = None
        log.warning("The database answers again.")


class BoundedConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed if nothing arrives for `patience` seconds, and whose rollback never fails."""

    patience: float
    outage: Outage

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the result of an operation. Raises `NoAnswer`."""
        try:
            return super().wait(bounded(gen, self.patience), interval, timeout)
        except NoAnswer:
            self.close()
            self.outage.begin()
            raise

    def rollback(self) -> None:
        """Roll back, or close the connection if that fails: the server rolls back what it has not committed."""
        try:
            super().rollback()
        except psycopg.Error:
            log.warning("A connection was lost before its rollback.", exc_info=True)
            self.close()


def bounded(operation: PQGen[RV], patience: float) -> PQGen[RV]:
    """An operation of psycopg that raises `NoAnswer` if nothing arrives for `patience` seconds.

    psycopg resumes an operation when its socket is ready, and with 0 after every interval.
    """
    heard = monotonic()
    try:
        state = next(operation)
        while True:
            ready = yield state
            if ready:
                heard = monotonic()
            elif monotonic() - heard > patience:
                raise NoAnswer(f"No answer for {patience:g} s.")
            state = operation.send(ready)
    except StopIteration as end:
        result: RV = end.value
        return result


def options(timeout: float) -> dict[str, object]:
    """The parameters of connections whose statements may take `timeout` seconds.

    TCP's timeouts find a host that is gone while a connection is idle.
    """
    seconds = max(2, round(timeout))
    parameters = {
        "timezone": "UTC",
        "statement_timeout": f"{timeout * 1000:.0f}",
        "lock_timeout": f"{timeout * 500:.0f}",
        "random_page_cost": "1.1",  # That of an SSD or of memory; the default prefers scans to indexes.
        "idle_in_transaction_session_timeout": "60s",
    }
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in parameters.items()),
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 3,
        "tcp_user_timeout": round(timeout * 1000),
    }


def connect(outage: Outage, patience: float, *arguments: Any, **parameters: Any) -> BoundedConnection:
    """Connect, unless the database is known not to answer. Raises `psycopg.OperationalError`."""
    with outage.connecting():
        connection = BoundedConnection.connect(*arguments, **parameters)
    connection.patience, connection.outage = patience, outage
    return connection
