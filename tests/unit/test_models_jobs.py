"""The transitions of jobs: in any order of events, they follow `MOVES` and break no invariant."""

import itertools

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlapi.check import of_tables
from mlapi.database import Database
from mlapi.errors import AttemptOver, Conflict
from mlapi.models import (
    Attempt,
    Base,
    File,
    Function,
    Job,
    JobInput,
    JobOutput,
    JobParent,
    Queue,
    Run,
    attempts,
    jobs,
    logs,
    progress,
    retries,
    runs,
    workers,
)
from mlapi.models.attempts import Fence, Output, Report
from mlapi.models.backoff import Retries
from mlapi.models.base import clock
from mlapi.models.dependencies import Dependency
from mlapi.models.jobs import MOVES, TERMINAL, Status
from mlapi.models.patterns import Named
from mlapi.models.plans import RunOptions
from tests.rows import SHA256, furnish
from tests.support import empty

MOST = Retries(3)

AFTER = [
    [None],
    [None, None, None],
    [None, [], [0, 1]],
    [None, [0], [0], [1, 2]],
    [[], [], [], [0, 2], [1, 3]],
]
"""Graphs of tasks: the indices of the parents of every task."""


ENDINGS = [Status.FINISHED] * 4 + [Status.FAILED, Status.CANCELLED]
"""Reports of runners; mostly FINISHED, so that dependent jobs run."""


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A SQLite file with the tables."""
    made = Database(f"sqlite:///{tmp_path_factory.mktemp('jobs')}/jobs.db")
    sa.event.listen(made.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    Base.metadata.create_all(made.engine)
    yield made
    made.engine.dispose()


class Life(RuleBasedStateMachine):
    """Runs, and the actions of users, runners and schedulers, in any order."""

    database = None

    def __init__(self):
        super().__init__()
        self.attempts, self.reported, self.before, self.runs, self.reports = [], {}, {}, 0, 0
        self.ends, self.retried = {}, False

    @initialize(after=st.sampled_from(AFTER), picky=st.booleans())
    def begin(self, after, picky):
        """A pipeline, perhaps of a function that takes one file only, and one run of it."""
        empty(self.database.engine, Base.metadata)
        with self.database.writing.begin() as db:
            self.pipeline, self.file = furnish(db, after)
            db.execute(sa.update(Function).values(min_files=int(picky), max_files=1 if picky else None))
            workers.beat(db, "w", "here", "1")
        self.start()

    @precondition(lambda self: self.runs < 4)
    @rule(data=st.data(), depends=st.sampled_from([False, False, True]), reuse=st.sampled_from([True, True, None]))
    def start_another(self, data, depends, reuse):
        """Start another run, which may depend on a run or a job, and may reuse results."""
        with self.database.writing() as db:
            table = Run if data.draw(st.booleans()) else Job
            number = data.draw(st.sampled_from(db.scalars(sa.select(table.id).order_by(table.id)).all()))
            named = [Dependency("run" if table is Run else "job", number)] if depends else []
            mine = Job.run_id == number if table is Run else Job.id == number
            able = not set(db.scalars(sa.select(Job.status).where(mine))) & {Status.FAILED, Status.CANCELLED}
            try:
                runs.start(db, self.pipeline, [self.file], None, RunOptions({"reuse": reuse}, depends_on=named))
            except Conflict:
                assert not able
                db.rollback()
            else:
                assert able or not depends
                self.runs += 1
                db.commit()

    def start(self):
        """Start a run."""
        self.runs += 1
        with self.database.writing.begin() as db:
            runs.start(db, self.pipeline, [self.file])

    @rule(data=st.data(), whole=st.booleans())
    def retry(self, data, whole):
        """A user retries a job or a run."""
        with self.database.writing() as db:
            table = Run if whole else Job
            number = data.draw(st.sampled_from(db.scalars(sa.select(table.id).order_by(table.id)).all()))
            mine = Job.run_id == number if whole else Job.id == number
            found = set(db.scalars(sa.select(Job.status).where(mine)))
            able = found <= TERMINAL and found != {Status.FINISHED}
            try:
                (retries.retry_run if whole else retries.retry_job)(db, number)
            except Conflict:
                db.rollback()  # Also if a job before it has failed.
            else:
                assert able
                self.retried = True
                db.commit()

    @rule(most=st.sampled_from([5, 5, 1]))
    def claim(self, most):
        """A worker claims jobs."""
        with self.database.writing.begin() as db:
            self.attempts += [claim.fence for claim in attempts.claim(db, "w", most, 60)]

    def pick(self, db, data):
        """An attempt that holds its job, or if there is none, an ended attempt with a late runner."""
        late = data.draw(st.sampled_from([False, False, True]))
        fitting = [each for each in self.attempts if self.holds(db, each) is not late]
        return data.draw(st.sampled_from(fitting or self.attempts))

    def words(self):
        """A new reason, so that no report is a repetition."""
        self.reports += 1
        return f"told {self.reports}"

    def holds(self, db, attempt):
        """Whether an attempt holds its job."""
        found = db.execute(sa.select(Job.status, Job.attempt).where(Job.id == attempt.job_id)).one()
        return tuple(found) == (Status.RUNNING, attempt.number)

    @precondition(lambda self: self.attempts)
    @rule(
        data=st.data(),
        status=st.sampled_from(ENDINGS),
        outputs=st.sampled_from([1, 2, 0]),
        code=st.sampled_from([None, 1, 75]),
    )
    def report(self, data, status, outputs, code):
        """A runner reports, in time or late; exit code 75 is transient."""
        with self.database.writing() as db:
            attempt = self.pick(db, data)
            made = [Output(f"{attempt.id}.{n}", SHA256, {}, "created") for n in range(outputs)]
            held = self.holds(db, attempt)
            db.execute(sa.update(Job).values(retry_on=[75]))
            try:
                if outputs:
                    attempts.hand_in(db, attempt, SHA256, 0)
                attempts.report(db, attempt, Report(Status(status), self.words(), {}, made, code))
            except AttemptOver:
                assert not held
                db.rollback()
            else:
                assert held
                assert attempt.id not in self.reported
                self.reported[attempt.id] = status
                db.commit()

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), what=st.sampled_from(["beat", "log", "lose", "stop", "fault"]))
    def happen(self, data, what):
        """A runner sends a heartbeat, misses it, or hands its job back."""
        with self.database.writing.begin() as db:
            attempt = self.pick(db, data)
            held = self.holds(db, attempt)
            try:
                if what == "lose":
                    assert attempts.lose(db, attempt, MOST, "lost") is held
                    return
                if what in ("stop", "fault"):
                    attempts.hand_back(db, attempt, self.words(), attempts.WORKER if what == "fault" else None, MOST)
                elif what == "log":
                    size = db.scalars(sa.select(Attempt.log_size).where(Attempt.id == attempt.id)).one()
                    logs.append(db, attempt, size, b"x", 100)
                else:
                    attempts.beat(db, attempt, 60)
            except AttemptOver:
                assert not held
            else:
                assert held

    @rule(data=st.data(), whole=st.sampled_from([False, False, True]))
    def cancel(self, data, whole):
        """A user cancels a job or a run."""
        with self.database.writing() as db:
            table = Run if whole else Job
            number = data.draw(st.sampled_from(db.scalars(sa.select(table.id).order_by(table.id)).all()))
            mine = Job.run_id == number if whole else Job.id == number
            over = set(db.scalars(sa.select(Job.status).where(mine))) <= TERMINAL
            try:
                (runs if whole else progress).cancel(db, number)
            except Conflict:
                assert over
                db.rollback()
            else:
                assert not over
                db.commit()

    @invariant()
    def only_allowed_moves_were_made(self):
        """Jobs have changed only along allowed transitions; an ended job changes only by a retry, an attempt never."""
        with self.database.reading() as db:
            now = {row.id: row for row in db.execute(sa.select(Job.__table__))}
            ends = {row.id: row for row in db.execute(sa.select(Attempt.__table__).where(Attempt.ended.is_not(None)))}
        for job, was in self.before.items():
            assert now[job].status == was.status or now[job].status in _reachable(Status(was.status))
            assert was.status not in TERMINAL or self.retried or unmarked(now[job]) == unmarked(was)
            assert was.status != Status.FINISHED or unmarked(now[job]) == unmarked(was)
        assert ends.items() >= self.ends.items()
        self.before, self.ends, self.retried = now, ends, False

    @invariant()
    def no_row_breaks_an_invariant(self):
        """The check of the tables finds no violations."""
        with self.database.reading() as db:
            assert list(of_tables(db)) == []

    @invariant()
    def inputs_are_the_outputs_of_the_parents(self):
        """A job that can run has all outputs of its parents, in order; one that waits or does not fit has none."""
        with self.database.reading() as db:
            parents = {row.job_id for row in db.execute(sa.select(JobParent.job_id))}
            for job in parents:
                status, attempt = db.execute(sa.select(Job.status, Job.attempt).where(Job.id == job)).one()
                unfit = status == Status.FAILED and attempt == 0
                before = sa.select(JobParent.parent_id).where(JobParent.job_id == job)
                made = sa.select(JobOutput.file_id).join(Job, JobOutput.job_id == Job.id).where(Job.id.in_(before))
                made = list(db.scalars(made.order_by(Job.position, JobOutput.number)))
                taken = sa.select(JobInput.file_id).where(JobInput.job_id == job).order_by(JobInput.number)
                taken = list(db.scalars(taken))
                assert taken == (made if taken or not (unfit or status in (Status.PENDING, Status.CANCELLED)) else [])


def unmarked(row):
    """A row of a job without what the tests themselves set."""
    return {name: value for name, value in row._asdict().items() if name != "retry_on"}


def _reachable(status):
    """The statuses that are reachable by any number of transitions."""
    found, todo = set(), [status]
    while todo:
        new = MOVES[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_no_invariant_is_ever_broken(database):
    Life.database = database
    often = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)
    run_state_machine_as_test(Life, settings=often)


@pytest.fixture
def job(database):
    """A database with one job, and a function that sets its status."""
    empty(database.engine, Base.metadata)
    with database.writing() as db:
        pipeline, file = furnish(db, [None])
        run, _ = runs.start(db, pipeline, [file])
        [number] = db.scalars(sa.select(Job.id).where(Job.run_id == run.id))
        yield db, number
        db.rollback()


@pytest.mark.parametrize(("start", "to"), list(itertools.product(Status, Status)))
def test_jobs_move_only_as_the_table_allows(start, to, job):
    db, number = job
    db.execute(sa.update(Job).values(status=start))
    moved = jobs.move(db, to, Job.id == number)
    assert moved == ([number] if to in MOVES[start] else [])
    assert db.scalar(sa.select(Job.status)) == (to if moved else start)


def test_the_table_contains_every_status():
    assert MOVES.keys() == set(Status)
    assert {Status.FINISHED, Status.FAILED, Status.CANCELLED} == TERMINAL
    assert all(_reachable(status) == set(Status) for status in Status if status != Status.FINISHED)
    assert _reachable(Status.FINISHED) == set()


def test_the_database_rejects_other_statuses(job):
    db, _ = job
    with pytest.raises(sa.exc.IntegrityError):
        db.execute(sa.update(Job).values(status="DONE"))


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a.b.c", "a.b.c"], ["a.b.c", "a.b_2.c"]),
        (["a_2.c", "a.c", "a.c"], ["a_2.c", "a.c", "a_3.c"]),
        ([".c", ".c"], [".c", ".c_2"]),
        (["a", "A"], ["a", "A"]),
        ([], []),
    ],
)
def test_duplicate_names_get_numbers(names, taken, job):
    db, number = job
    db.execute(sa.delete(JobInput))
    file = db.scalar(sa.select(File.id))
    jobs.add_inputs(db, {tuple(Named(file, name) for name in names): [number]})
    db.flush()
    kept = db.execute(sa.select(JobInput.number, JobInput.name).order_by(JobInput.number)).all()
    assert [tuple(each) for each in kept] == list(enumerate(taken, 1))


def test_a_cancellation_request_is_not_inherited_by_a_requeued_job(job):
    db, number = job
    [claim] = attempts.claim(db, "w", 1, 60)
    attempt = claim.fence
    assert attempt == Fence(claim.attempt_id, number, 1) == db.get_one(Attempt, claim.attempt_id).fence
    assert attempts.beat(db, attempt, 60) is False
    progress.cancel(db, number)
    assert attempts.beat(db, attempt, 60) is True
    assert attempts.lose(db, attempt, MOST, "lost") is True
    assert db.scalar(sa.select(Job.status)) == Status.CANCELLED


def test_every_combination_of_jobs_has_one_status():
    over = {Status.FINISHED, Status.FAILED, Status.CANCELLED}
    for length in range(1, len(Status) + 1):
        for present in map(set, itertools.combinations(Status, length)):
            status = runs.status_of(dict.fromkeys(present, 1) | dict.fromkeys(set(Status) - present, 0))
            if not present <= over:
                assert status == ("QUEUED" if present <= {Status.QUEUED, Status.PENDING} else "RUNNING")
            else:
                worst = next(each for each in (Status.FAILED, Status.CANCELLED, Status.FINISHED) if each in present)
                assert status == worst


def test_times_come_from_the_clock_of_the_database_in_the_order_of_events(db):
    """On both databases, no row is older than one that it refers to, and the times of a job are in order."""
    before = db.scalar(sa.select(Queue.created))  # The default queue is the oldest row.
    pipeline, file = furnish(db, [None, None], SHA256)
    runs.start(db, pipeline, [file])
    for _ in range(2):
        [claim] = attempts.claim(db, "w", 9, 60)
        attempts.hand_in(db, claim.fence, SHA256, 0)
        made = [Output("o", SHA256, {}, "created")]
        attempts.report(db, claim.fence, Report(Status.FINISHED, outputs=made))
    after = db.scalar(sa.select(clock()))
    for table in Base.metadata.tables.values():
        for key in table.foreign_keys if "created" in table.c else ():
            parent = key.column.table.alias()
            younger = sa.select(parent.c.created, table.c.created).where(key.parent == parent.c.id)
            for earlier, later in db.execute(younger):
                assert before <= earlier <= later <= after, key
        assert "created" not in table.c or isinstance(table.c.created.default.arg, clock)
    moments = [column for table in Base.metadata.tables.values() for column in table.c if _is_time(column)]
    for moment in moments:
        assert all(each is None or each.microsecond % 1000 == 0 for each in db.scalars(sa.select(moment)))
    rows = db.execute(sa.select(Job.created, Job.queued, Job.started, Job.ended).order_by(Job.id)).all()
    assert [tuple(sorted(row)) for row in rows] == [tuple(row) for row in rows]
    assert rows[0].created == rows[0].queued


def _is_time(column):
    return isinstance(column.type, sa.DateTime)
