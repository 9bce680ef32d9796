"""The scheduler: claims queued jobs, submits their attempts to the executor, and detects lost workers."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import OperationalError

from mlapi.database import Database
from mlapi.execution import leftovers
from mlapi.execution.executors.base import Executor, Ticket
from mlapi.models import Attempt, attempts, jobs
from mlapi.models.blobs import referenced
from mlapi.models.slots import Allowance, allowance
from mlapi.security import Tokens, Use
from mlapi.settings import Settings
from mlapi.storage import BlobStore

log = logging.getLogger(__name__)

LATE = 1.0
"""Seconds between two checks for expired leases."""

FIRST_SWEEP, SWEEP = 10.0, 3600.0
"""Seconds until the first sweep of the store and the scratch folder, and between two sweeps."""

PHASES = 3
"""The number of phases of an attempt, each of which ends at the time limit of the job."""

TOKEN_MARGIN = 3600.0
"""Seconds by which the token of an attempt outlives its phases."""

RECOVERY = 1.0
"""Seconds to wait after an error of the database."""


class Scheduler:
    """Moves jobs from QUEUED to RUNNING, and queues or fails those whose workers are lost.

    Several schedulers can share a database: a claim is one statement, and the handling of lost attempts is fenced.
    `attempt_url` returns the URL of an attempt for its runner.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        executor: Executor,
        store: BlobStore,
        attempt_url: Callable[[int], str],
    ) -> None:
        self._settings, self._database, self._executor, self._store = settings, database, executor, store
        self._attempt_url = attempt_url
        self._tokens = Tokens(settings.secret_key)
        self.stopping = threading.Event()
        self._next_lease_check = 0.0
        self._ended: dict[int, int] = {}

    def stop(self) -> None:
        """Make `run` return soon; running jobs continue."""
        self.stopping.set()

    def close(self) -> None:
        """Release the executor; running jobs continue."""
        self._executor.close()

    def run(self) -> None:
        """Schedule until `stop` is called."""
        threading.Thread(target=self._sweep_periodically, name="sweep", daemon=True).start()
        while not self.stopping.is_set():
            try:
                busy = self.tick()
            except OperationalError:
                log.warning("The database is not available.", exc_info=True)
                self.stopping.wait(RECOVERY)
                continue
            if not busy:
                self.stopping.wait(self._settings.scheduler_interval)
        self.close()

    def tick(self) -> bool:
        """Check runners, leases and the queue once; returns whether a job was claimed."""
        self._ended |= self._executor.poll()
        for attempt_id, code in list(self._ended.items()):
            self._lose(attempt_id, f"The runner ended with exit status {code} without a report.")
            del self._ended[attempt_id]  # Only now: after an error of the database, the next tick tries again.
        if time.monotonic() >= self._next_lease_check:
            self._next_lease_check = time.monotonic() + LATE
            with self._database.reading() as db:
                expired = attempts.expired(db)
            for attempt_id in expired:
                self._lose(attempt_id, None)
                self._executor.cancel(attempt_id)
        return self._claim()

    def _claim(self) -> bool:
        """Claim jobs for the free slots; running attempts are counted in the database, which survives a restart."""
        with self._database.reading() as db:
            worker, slots = self._settings.worker, self._settings.slots
            allowed = allowance(db, worker, slots) if jobs.waiting(db) else Allowance(0)
        if not allowed.jobs:
            return False
        with self._database.writing.begin() as db:
            claims = attempts.claim(db, worker, allowed.jobs, self._settings.job_lease, trial=allowed.trial)
        for claim in claims:
            log.info("Job %d: attempt %d starts.", claim.job_id, claim.number)
            self._executor.submit(self._ticket(claim))
        return bool(claims)

    def _ticket(self, claim: attempts.Claim) -> Ticket:
        lifetime = PHASES * (claim.timeout or self._settings.job_timeout) + TOKEN_MARGIN
        token = self._tokens.make(claim.attempt_id, Use.JOB, lifetime)
        return Ticket(claim.attempt_id, self._attempt_url(claim.attempt_id), token)

    def _lose(self, attempt_id: int, reason: str | None) -> None:
        """End an attempt whose worker is lost; the default reason is that its lease has expired."""
        with self._database.writing.begin() as db:
            attempt = db.get(Attempt, attempt_id)
            if attempt is None:
                return
            reason = reason or f"No heartbeat from {attempt.worker} for {self._settings.job_lease:g} s."
            if attempts.lose(db, attempt.fence, self._settings.job_attempts, reason):
                log.warning("Job %d: attempt %d is lost. %s", attempt.job_id, attempt.number, reason)

    def _sweep_periodically(self) -> None:
        pause = FIRST_SWEEP
        while not self.stopping.wait(pause):
            pause = SWEEP
            try:
                leftovers.sweep(self._settings.scratch_dir)
                swept = self._store.sweep(
                    lambda digests: referenced(self._database, digests), self._settings.sweep_grace
                )
            except (OperationalError, OSError):
                log.warning("The sweep failed.", exc_info=True)
            else:
                log.info("Deleted %d unreferenced blobs of %d bytes.", swept.blobs, swept.size)
