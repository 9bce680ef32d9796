"""Runs of a pipeline, and everybody's runs."""

from typing import Any

import sqlalchemy as sa

from mlapi.models import Pipeline, Run, RunFile, User, runs
from mlapi.models.jobs import TERMINAL
from mlapi.resources.base import Collection, Everyones, Item, Node
from mlapi.resources.files import FileItem
from mlapi.resources.jobs import Jobs

table, pipelines, users = (each.__table__.c for each in (Run, Pipeline, User))


class RunCancel(Node):
    """Where one asks for a run to stop."""


class RunItem(Item):
    """A run: a pipeline as it was, over files."""

    key = "run"
    children = {"jobs": Jobs, "cancel": RunCancel}
    columns = (table.id, table.pipeline_id, table.task_count, table.created, users.name.label("owner"))
    source = sa.join(Run.__table__, User.__table__, table.owner_id == users.id)
    by = table.id
    within = table.pipeline_id == pipelines.id

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A run without its status, which takes a look at its jobs."""
        here = {"user": row.owner, "pipeline": row.pipeline_id}
        url = cls.link(request, **here, run=row.id)
        return {
            "id": row.id,
            "url": url,
            "pipeline": cls.holder.link(request, **here),
            "created": row.created,
            "jobs": f"{url}/jobs",
        }

    def __json__(self, request: Any) -> dict[str, Any]:
        query = sa.select(RunFile.file_id).where(RunFile.run_id == self.id).order_by(RunFile.position)
        files = [FileItem.link(request, user=self.row.owner, file=file) for file in request.db.scalars(query)]
        return _with_status([self.row], request)[0] | {"files": files}


def _with_status(rows: list[Any], request: Any) -> list[dict[str, Any]]:
    """Runs with their status and progress, all counted by one statement."""
    counts = runs.statuses(request.db, [row.id for row in rows])
    return [
        RunItem.describe(row, request)
        | {"status": runs.status_of(counts[row.id]), "progress": progress(counts[row.id], row.task_count)}
        for row in rows
    ]


def progress(counts: dict[str, int], total: int) -> dict[str, Any]:
    """How far a run is: its number of jobs, how many are over, and how many are in each status."""
    over = sum(count for status, count in counts.items() if status in TERMINAL)
    return {"jobs": total, "over": over, "statuses": counts}


class Runs(Collection):
    """The runs of a pipeline, newest first."""

    item = RunItem
    mine = table.pipeline_id

    def describe(self, rows: list[Any]) -> list[dict[str, Any]]:
        """The runs of a page with their status."""
        return _with_status(rows, self.request)

    @property
    def pipeline(self) -> int:
        """The id of the pipeline whose runs these are."""
        return int(self.__parent__.id)  # type: ignore[union-attr]


class AllRuns(Everyones):
    """The runs that the caller may see, newest first."""

    item = RunItem
    mine = table.owner_id
    filters = {
        "owner": lambda bound: users.name == bound,
        "pipeline": lambda bound: table.pipeline_id == bound,
    }

    def describe(self, rows: list[Any]) -> list[dict[str, Any]]:
        """The runs of a page with their status."""
        return _with_status(rows, self.request)
