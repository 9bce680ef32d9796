"""The scheduler: claims queued jobs, submits their attempts to the executor, and detects lost workers."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

import mlapi
from mlapi.database import Database, analyze
from mlapi.errors import AttemptOver
from mlapi.execution import leftovers
from mlapi.execution.archive import archive_logs
from mlapi.execution.executors.base import Executor, Ticket
from mlapi.execution.runner import EXIT_REFUSED, EXIT_STOPPED, EXIT_UNREPORTED
from mlapi.models import Attempt, attempts, dispatch, slots, workers
from mlapi.models.attempts import WORKER
from mlapi.models.backoff import Retries
from mlapi.models.blobs import referenced
from mlapi.models.jobs import Status
from mlapi.models.slots import Allowance
from mlapi.security import Tokens, Use
from mlapi.settings import Settings, is_loopback
from mlapi.storage import BlobStore
from mlapi.wake import Bell

log = logging.getLogger(__name__)

LATE = 1.0
"""Seconds between two checks for expired leases."""

HEARTBEAT = 5.0
"""Seconds between two heartbeats of the worker."""

FIRST_SWEEP, SWEEP = 10.0, 3600.0
"""Seconds until the first sweep of the store and the scratch folder, and between two sweeps."""

ARCHIVE = 60.0
"""Seconds between two looks for logs of ended attempts, which become blobs."""

PHASES = 3
"""The number of phases of an attempt, each of which ends at the time limit of the job."""

TOKEN_MARGIN = 3600.0
"""Seconds by which the token of an attempt outlives its phases."""

REST = 1.0
"""Maximum number of seconds between two looks at the queue while nothing happens, unless the interval is longer."""

RECOVERY = 1.0
"""Seconds to wait after an error."""

REFUSED = (
    "The service refused the token of the runner (401 Unauthorized): the secret_key of this machine differs from that "
    "of the service, or its clock does."
)


class Ending(NamedTuple):
    """Why an attempt ends without a report."""

    reason: str
    fault: str | None = None
    """The fault that is certainly the cause: the job is handed back."""
    unfetched: str | None = WORKER
    """The fault if the runner has not even fetched the job."""
    stopped: bool = False
    """Whether the runner was told to stop: the job is handed back."""


class Scheduler:
    """Moves jobs from QUEUED to RUNNING, and queues or fails those whose workers are lost.

    Several schedulers can share a database: a claim is one statement, and the handling of lost attempts is fenced.
    `attempt_url` returns the URL of an attempt for its runner; `answers` whether the service answers there.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        executor: Executor,
        store: BlobStore,
        attempt_url: Callable[[int], str],
        answers: Callable[[], bool],
    ) -> None:
        self._settings, self._database, self._executor, self._store = settings, database, executor, store
        self._attempt_url, self._answers = attempt_url, answers
        self._actor = f"worker:{settings.worker}"
        self._tokens = Tokens(settings.secret_key)
        self.stopping = threading.Event()
        self._next_lease_check = self._next_heartbeat = 0.0
        self._settled = False
        self._bell: Bell | None = None
        self._pause = settings.scheduler_interval
        self._is_near = is_loopback(settings.url)
        self._faults = 0
        self._offer = offer(settings)
        self._ended: dict[int, Ending] = {}

    def stop(self) -> None:
        """Make `run` return soon; running jobs continue."""
        self.stopping.set()
        if self._bell is not None:
            self._bell.wake()

    def close(self) -> None:
        """Release the executor; running jobs continue."""
        self._executor.close()

    def run(self) -> None:
        """Schedule until `stop` is called, whatever fails in the meantime."""
        threading.Thread(target=self._sweep_periodically, name="sweep", daemon=True).start()
        with Bell(self._settings.data_dir) as self._bell:
            while not self.stopping.is_set():
                try:
                    busy = self.tick()
                except OperationalError:
                    log.warning("The database is not available.", exc_info=True)
                    self.stopping.wait(RECOVERY)
                except Exception:
                    # Every job of this machine depends on this loop, so no error ends it.
                    log.exception("The scheduler failed. It tries again.")
                    self.stopping.wait(RECOVERY)
                else:
                    self._rest(self._bell, busy=busy)
        self.close()

    def _rest(self, bell: Bell, *, busy: bool) -> None:
        """Wait until something happens, or for a time that doubles while nothing does.

        The pauses grow only if the service is on this machine, because it wakes no others.
        """
        interval = self._settings.scheduler_interval
        if busy or bell.wait(self._pause, self._executor.descriptors()) or not (bell.audible and self._is_near):
            self._pause = interval
        else:
            self._pause = min(2 * self._pause, max(REST, interval))

    def tick(self) -> bool:
        """Check runners, leases and the queue once; returns whether a job was claimed."""
        ended = {attempt_id: _ending(code) for attempt_id, code in self._executor.poll().items()}
        self._ended |= ended
        if time.monotonic() >= self._next_heartbeat:
            self._beat()
        if not self._settled:
            self._settle()
        late = time.monotonic() >= self._next_lease_check
        if late:
            self._next_lease_check = time.monotonic() + LATE
            self._find_expired()
        if ended or late:
            self._end_all()
        return self._claim()

    def _beat(self) -> None:
        """Send the heartbeat of this worker."""
        with self._database.acting(self._actor) as db:
            workers.beat(db, self._settings.worker, socket.gethostname(), mlapi.__version__, self._offer)
        self._next_heartbeat = time.monotonic() + HEARTBEAT

    def _settle(self) -> None:
        """Take over the runners of an earlier scheduler of this worker; its attempts whose runners are gone end now.

        An attempt whose runner has fetched the job but left no trace keeps its lease, because the runner may be about
        to report, or run on another machine of the same name.
        """
        with self._database.reading() as db:
            running = slots.running(db, self._settings.worker)
        for attempt in running:
            lives = self._executor.adopt(attempt.id)
            if lives is False or (lives is None and not attempt.fetched):
                self._ended[attempt.id] = Ending("The runner ended while no scheduler watched it.", unfetched=None)
        self._settled = True

    def _find_expired(self) -> None:
        """End the attempts whose leases have expired."""
        with self._database.reading() as db:
            expired = attempts.expired(db, self._settings.worker)
            query = sa.select(Attempt.id, Attempt.worker).where(Attempt.id.in_(expired))
            rows = db.execute(query).all() if expired else []
        for attempt_id, worker in rows:
            reason = f"No heartbeat from {worker} for {self._settings.job_lease:g} s."
            self._ended.setdefault(attempt_id, Ending(reason))

    def _end_all(self) -> None:
        """End the attempts that have no result; one that cannot be ended is tried again at the next lease check."""
        for attempt_id, ending in list(self._ended.items()):
            try:
                self._end(attempt_id, ending)
            except OperationalError:
                raise
            except Exception:
                log.exception("Attempt %d cannot be ended. It is tried again.", attempt_id)
            else:
                del self._ended[attempt_id]

    def _end(self, attempt_id: int, ending: Ending) -> None:
        """End an attempt, unless it has reported; before its job is queued again, nothing of it is left running."""
        if not self._executor.kill(attempt_id):
            log.error("Attempt %d: some of its processes cannot be killed.", attempt_id)
        with self._database.reading() as db:
            query = sa.select(Attempt.job_id, Attempt.number, Attempt.fetched.is_not(None)).where(
                Attempt.id == attempt_id, Attempt.status == Status.RUNNING
            )
            row = db.execute(query).first()
        if row is None:
            return
        job_id, number, fetched = row
        fence = attempts.Fence(attempt_id, job_id, number)
        with self._database.acting(self._actor) as db:
            if self._put_back(db, fence, ending, fetched=fetched):
                log.warning("Job %d: attempt %d is lost. %s", job_id, number, ending.reason)

    def _put_back(self, db: sa.orm.Session, fence: attempts.Fence, ending: Ending, *, fetched: bool) -> bool:
        """Queue, fail or cancel the job of an attempt without a result; returns False if it had one after all."""
        retries = Retries.of(self._settings)
        if ending.fault is None and not ending.stopped:
            return attempts.lose(db, fence, retries, ending.reason, None if fetched else ending.unfetched)
        try:
            attempts.hand_back(db, fence, ending.reason, ending.fault, retries)
        except AttemptOver:
            return False
        return True

    def _claim(self) -> bool:
        """Claim jobs for the free slots; running attempts are counted in the database, which survives a restart."""
        worker = self._settings.worker
        with self._database.reading() as db:
            if not dispatch.waiting(db, worker):
                return False
            allowed = slots.allowance(db, worker, self._settings.slots)
        self._log_health(allowed)
        if not allowed.jobs or not self._answers():
            return False
        with self._database.acting(self._actor) as db:
            claims = attempts.claim(db, worker, allowed.jobs, self._settings.job_lease, trial=allowed.trial)
        for claim in claims:
            self._submit(claim)
        return bool(claims)

    def _log_health(self, allowed: Allowance) -> None:
        """Log that this worker fails, or no longer does."""
        if allowed.faults > self._faults:
            block = workers.block_after(allowed.faults)
            log.error("This machine fails, and claims no job for %g s. %s", block, allowed.reason)
        elif not allowed.faults and self._faults:
            log.info("This machine runs jobs again.")
        self._faults = allowed.faults

    def _submit(self, claim: attempts.Claim) -> None:
        """Submit a claimed job to the executor, or hand it back at the next check."""
        log.info("Job %d: attempt %d starts.", claim.job_id, claim.number)
        try:
            self._executor.submit(self._ticket(claim))
        except Exception as error:
            log.exception("Job %d: attempt %d cannot be started.", claim.job_id, claim.number)
            self._ended[claim.attempt_id] = _not_started(error)

    def _ticket(self, claim: attempts.Claim) -> Ticket:
        lifetime = PHASES * (claim.timeout or self._settings.job_timeout) + TOKEN_MARGIN
        token = self._tokens.make(claim.attempt_id, Use.JOB, lifetime)
        return Ticket(claim.attempt_id, self._attempt_url(claim.attempt_id), token)

    def _sweep_periodically(self) -> None:
        pause, due = FIRST_SWEEP, 0.0
        while not self.stopping.wait(pause):
            pause = ARCHIVE
            # First, because it makes room for the logs.
            if time.monotonic() >= due and self._sweep():
                due = time.monotonic() + SWEEP
            try:
                archive_logs(self._database, self._store)
            except Exception:
                log.exception("The logs of ended attempts cannot be stored. It is tried again in %g s.", pause)

    def _sweep(self) -> bool:
        """Delete what is left of attempts and what nothing refers to; returns whether that was possible."""
        try:
            leftovers.sweep(self._settings.scratch_dir)
            swept = self._store.sweep(lambda digests: referenced(self._database, digests), self._settings.sweep_grace)
            analyze(self._database.engine)
        except Exception:
            log.exception("The sweep failed. It is tried again in %g s.", ARCHIVE)
            return False
        log.info("Deleted %d unreferenced blobs of %d bytes.", swept.blobs, swept.size)
        return True


def offer(settings: Settings) -> workers.Offer:
    """What this machine offers: the processors that the scheduler may use, and the physical memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return workers.Offer(list(settings.queues), settings.slots, os.cpu_count(), memory, settings.gpus)


def _not_started(error: Exception) -> Ending:
    """Return why an attempt ends whose runner could not be started."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Ending(f"The runner cannot be started: {words}.", WORKER)


def _ending(code: int | OSError | None) -> Ending:
    """Return why an attempt ends whose runner ended with an exit status, which is unknown of an adopted runner."""
    if isinstance(code, OSError):
        return _not_started(code)
    if code == EXIT_REFUSED:
        return Ending(REFUSED, WORKER)
    if code == EXIT_STOPPED:
        return Ending("The runner was told to stop.", stopped=True)
    if code == EXIT_UNREPORTED:
        return Ending("The service did not take the report of the runner in time.")
    status = "" if code is None else f" with exit status {code}"
    return Ending(f"The runner ended{status} without a report.")
