"""Runs of a pipeline, and runs across owners."""

import datetime
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

import sqlalchemy as sa

from mlapi.database import Reader
from mlapi.models import Job, Pipeline, Run, RunFile, User, events, queues, runs, waits
from mlapi.models.base import JsonObject
from mlapi.models.jobs import TERMINAL
from mlapi.resources.events import Events
from mlapi.resources.fields import Field, Fields, Filter, Reference, Row
from mlapi.resources.items import AcrossOwners, Collection, OwnedItem
from mlapi.resources.jobs import Jobs
from mlapi.resources.tasks import inputs_of
from mlapi.resources.tree import Linker, Part, Url

table, pipelines, users = Run.__table__.c, Pipeline.__table__.c, User.__table__.c
NO_NUMBER, NO_TEXT = sa.cast(sa.null(), sa.BigInteger), sa.cast(sa.null(), sa.Text)
OWNER = Reference(table.owner_id, sa.select(users.id))


class Progress(TypedDict):
    """The progress of a run: the number of its jobs, of those that have ended (`over`), and of those in each status."""

    jobs: int
    over: int
    statuses: dict[str, int]


class RunSummary(TypedDict):
    """A run in a list."""

    id: int
    url: Url
    pipeline: Url
    created: datetime.datetime
    jobs: Url
    status: str
    progress: Progress
    grid: Url | None


class RunDocument(RunSummary):
    """A run. `changes` are what it changed of the tasks: for all jobs, and in `jobs` for single ones, by position.

    `warnings` say why jobs do not start, or will not, such as that no worker serves their queue.
    """

    files: list[Url]
    changes: JsonObject | None
    rerun_of: Url | None
    warnings: list[str]
    events: Url


class RunCancel(Part["RunItem"]):
    """The cancellation of a run."""


class RunRetry(Part["RunItem"]):
    """The retry of a run."""


class RunRerun(Part["RunItem"]):
    """The repetition of a run."""


class RunEvents(Events["RunItem"]):
    """The events of a run and of its jobs."""

    statement = events.OF_RUN

    @property
    def of_item(self) -> Mapping[str, object]:
        """The run."""
        return {"run": self.item.id}

    def subject(self, kind: str, row_id: int) -> Url | None:
        """The URL of the run or of a job of it."""
        row = self.item.row
        run = self.link("run", user=row.owner, pipeline=row.pipeline, run=row.id)
        return f"{run}/jobs/{row_id}" if kind == "job" else run


class RunItem(OwnedItem[RunSummary, RunDocument]):
    """A run: one execution of a pipeline, as it was at the start, over files."""

    key = "run"
    children = {"jobs": Jobs, "cancel": RunCancel, "retry": RunRetry, "rerun": RunRerun, "events": RunEvents}
    fields = Fields(
        Field(table.id, sort=True),
        Field(table.pipeline_id, "pipeline", filter=Filter.ACROSS_OWNERS),
        Field(table.task_count, shown=False),
        Field(table.created),
        Field(table.grid_id, "grid"),
        Field(table.changes, detail=True),
        Field(table.rerun_of_id, "rerun_of", detail=True),
        Field(users.name, "owner", shown=False, filter=Filter.ACROSS_OWNERS, by=OWNER),
    )
    source = sa.join(Run.__table__, User.__table__, table.owner_id == users.id)
    by = table.id
    within = table.pipeline_id == pipelines.id
    owner = table.owner_id

    def document(self) -> RunDocument:
        """The run, with links to its input files."""
        [summary] = summaries([self.row], self.link, self.request.reader)
        files, warnings = self._files_and_warnings()
        other = self.row.rerun_of
        rerun_of = other and self.link("run", user=self.row.owner, pipeline=self.row.pipeline, run=other)
        return {
            **summary,
            "files": [self.link("file", user=self.row.owner, file=file) for file in files],
            "changes": changes_of(self.row, self.link, self.request.reader),
            "rerun_of": rerun_of,
            "warnings": warnings,
            "events": f"{summary['url']}/events",
        }

    def _files_and_warnings(self) -> tuple[list[int], list[str]]:
        """The ids of the input files, and why jobs do not start; one statement finds both."""
        warnings = waits.warnings(Job.run_id == self.id).subquery()
        found = sa.union_all(
            sa.select(RunFile.position, RunFile.file_id, NO_TEXT).where(RunFile.run_id == self.id),
            sa.select(NO_NUMBER, NO_NUMBER, warnings.c[0]),
        )
        rows = self.request.reader.execute(found).all()
        files = sorted((position, file) for position, file, _ in rows if file is not None)
        return [file for _, file in files], sorted(text for _, _, text in rows if text is not None)


def changes_of(row: Row, link: Linker, reader: Reader) -> JsonObject | None:
    """The changes of a run, with URLs of queues and tasks instead of names and ids; null for a deleted queue."""
    if row.changes is None:
        return None
    jobs = cast("list[JsonObject]", row.changes.get("jobs", []))
    names = {cast("str", part["queue"]) for part in (row.changes, *jobs) if part.get("queue") is not None}
    present = queues.since(reader, names, row.created) if names else set()

    def task(number: str) -> Url:
        return link("task", user=row.owner, pipeline=row.pipeline, task=number)

    def shown(changes: JsonObject) -> JsonObject:
        found = dict(changes)
        if (queue := changes.get("queue")) is not None:
            found["queue"] = link("queue", queue=queue) if queue in present else None
        if "inputs" in changes:
            found["inputs"] = inputs_of(cast("JsonObject | None", changes["inputs"]), task)
        if "jobs" in changes:
            found["jobs"] = [shown(job) for job in jobs]
        return found

    return shown(row.changes)


def summaries(rows: Sequence[Row], link: Linker, reader: Reader) -> list[RunSummary]:
    """The summaries of runs; one statement counts the jobs of all of them."""
    counts = runs.statuses(reader, [row.id for row in rows])
    return [summary(row, counts[row.id], link) for row in rows]


def summary(row: Row, counts: dict[str, int], link: Linker) -> RunSummary:
    """The summary of a run; `counts` is its number of jobs in each status."""
    url = link("run", user=row.owner, pipeline=row.pipeline, run=row.id)
    over = sum(count for status, count in counts.items() if status in TERMINAL)
    return {
        "id": row.id,
        "url": url,
        "pipeline": link("pipeline", user=row.owner, pipeline=row.pipeline),
        "created": row.created,
        "jobs": f"{url}/jobs",
        "status": runs.status_of(counts),
        "grid": link("grid", user=row.owner, pipeline=row.pipeline, grid=row.grid) if row.grid else None,
        "progress": {"jobs": row.task_count, "over": over, "statuses": counts},
    }


class Runs(Collection[RunItem]):
    """The runs of a pipeline, newest first."""

    item = RunItem
    tied_by = table.pipeline_id

    def describe(self, rows: Sequence[Row]) -> list[RunSummary]:
        """The documents of the runs of a page."""
        return summaries(rows, self.link, self.request.reader)


class AllRuns(AcrossOwners[RunItem]):
    """All runs that are visible to the caller, newest first."""

    kind = "runs"
    item = RunItem

    def describe(self, rows: Sequence[Row]) -> list[RunSummary]:
        """The documents of the runs of a page."""
        return summaries(rows, self.link, self.request.reader)
