"""The scheduler: claims queued jobs, hands each attempt to the executor, and notices what was lost."""

import logging
import threading
import time

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from mlapi.database import Database
from mlapi.execution.executors.base import Executor, Ticket
from mlapi.models import Attempt, attempts, jobs
from mlapi.models.blobs import referenced
from mlapi.resources import TREE
from mlapi.security import Tokens, Use
from mlapi.settings import Settings
from mlapi.storage import BlobStore

log = logging.getLogger(__name__)

LATE = 1.0
"""Seconds between two looks for leases that ran out."""

SWEEP = 3600.0
"""Seconds between two sweeps of the store."""

TOKEN_MARGIN = 3600.0
"""Seconds for which an attempt's token outlives its job's time limit, for inputs and outputs to travel."""

RECOVERY = 1.0
"""Seconds to wait after the database did not answer."""


class Scheduler:
    """Moves jobs from QUEUED to RUNNING, and back or on where their workers were lost.

    Any number of schedulers may work on one database: a claim is one statement, and what they do about lost
    attempts is fenced.
    """

    def __init__(self, settings: Settings, database: Database, executor: Executor, store: BlobStore) -> None:
        self._settings, self._database, self._executor, self._store = settings, database, executor, store
        self._tokens = Tokens(settings.secret_key)
        self._stop = threading.Event()
        self._look_for_late = 0.0
        self._ended: dict[int, int] = {}

    def stop(self) -> None:
        """Have `run` return soon; jobs that run go on."""
        self._stop.set()

    def run(self) -> None:
        """Schedule until told to stop."""
        threading.Thread(target=self._sweep_now_and_then, name="sweep", daemon=True).start()
        while not self._stop.is_set():
            try:
                busy = self.tick()
            except OperationalError:
                log.warning("The database does not answer.", exc_info=True)
                self._stop.wait(RECOVERY)
                continue
            if not busy:
                self._stop.wait(self._settings.scheduler_interval)
        self._executor.close()

    def tick(self) -> bool:
        """Look once at runners, leases and the queue; returns whether something was claimed."""
        self._ended |= self._executor.poll()
        for attempt_id, code in list(self._ended.items()):
            self._lose(attempt_id, f"The runner ended with exit status {code} and reported nothing.")
            del self._ended[attempt_id]  # Only now: the database may not have answered, and be asked again.
        if time.monotonic() >= self._look_for_late:
            self._look_for_late = time.monotonic() + LATE
            with self._database.reading() as db:
                late = attempts.expired(db)
            for attempt_id in late:
                self._lose(attempt_id, "The worker was not heard of before its lease ran out.")
                self._executor.cancel(attempt_id)
        return self._claim()

    def _claim(self) -> bool:
        free = self._executor.capacity()
        if free:
            with self._database.reading() as db:
                free = free if jobs.waiting(db) else 0
                free = free and min(free, self._settings.slots - attempts.running(db, self._settings.worker))
        if free <= 0:
            return False
        with self._database.writing.begin() as db:
            claims = attempts.claim(db, self._settings.worker, free, self._settings.job_lease)
        for claim in claims:
            log.info("Job %d: attempt %d starts.", claim.job_id, claim.number)
            self._executor.submit(self._ticket(claim))
        return bool(claims)

    def _ticket(self, claim: attempts.Claim) -> Ticket:
        lifetime = (claim.timeout or self._settings.job_timeout) + TOKEN_MARGIN
        url = self._settings.url + TREE.path("attempt", {"attempt": claim.attempt_id})
        return Ticket(claim.attempt_id, url, self._tokens.make(claim.attempt_id, Use.JOB, lifetime))

    def _lose(self, attempt_id: int, why: str) -> None:
        with self._database.writing.begin() as db:
            attempt = db.scalars(sa.select(Attempt).where(Attempt.id == attempt_id)).first()
            if attempt is not None and attempts.lose(db, attempt.fence, self._settings.job_attempts, why):
                log.warning("Job %d: attempt %d is lost. %s", attempt.job_id, attempt.number, why)

    def _sweep_now_and_then(self) -> None:
        while not self._stop.wait(SWEEP):
            try:
                swept = self._store.sweep(
                    lambda digests: referenced(self._database, digests), self._settings.sweep_grace
                )
            except (OperationalError, OSError):
                log.warning("The store was not swept.", exc_info=True)
            else:
                log.info("Swept %d blobs of %d bytes.", swept.blobs, swept.size)
