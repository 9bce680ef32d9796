"""Grids of a pipeline, and the runs of a grid."""

import datetime
from collections.abc import Iterator, Sequence
from typing import TypedDict

import sqlalchemy as sa

from mlapi.models import Grid, Job, Pipeline, Run, User, runs, waits
from mlapi.models.jobs import TERMINAL
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import Collection, OwnedItem
from mlapi.resources.runs import RunItem, RunSummary, summaries
from mlapi.resources.tree import Linker, Node, Part, Url

grids, pipelines, users = Grid.__table__.c, Pipeline.__table__.c, User.__table__.c


class AxisDocument(TypedDict):
    """An option of some tasks that varies in a grid, and its values."""

    tasks: list[Url]
    option: str
    values: list[object]


class GridSummary(TypedDict):
    """A grid in a list."""

    id: int
    url: Url
    pipeline: Url
    created: datetime.datetime
    axes: list[AxisDocument]
    runs: Url


class GridProgress(TypedDict):
    """The progress of a grid: the number of its runs, of those that have ended (`over`), and of those by status."""

    runs: int
    over: int
    statuses: dict[str, int]


class GridDocument(GridSummary):
    """A grid: runs that were started together, one for each combination of values.

    `warnings` say why jobs do not start, or will not, such as that no worker serves their queue.
    """

    progress: GridProgress
    warnings: list[str]


class GridCancel(Part["GridItem"]):
    """The cancellation of all runs of a grid."""


class GridRuns(Collection[RunItem]):
    """The runs of a grid, newest first."""

    item = RunItem
    tied_by = Run.__table__.c.grid_id

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """Nothing: the runs have their place below the pipeline."""
        yield from ()

    def describe(self, rows: Sequence[Row]) -> list[RunSummary]:
        """The documents of the runs of a page."""
        return summaries(rows, self.link, self.request.reader)


class GridItem(OwnedItem[GridSummary, GridDocument]):
    """A grid: the runs of a pipeline with all combinations of some values of its arguments."""

    key = "grid"
    children = {"runs": GridRuns, "cancel": GridCancel}
    fields = Fields(
        Field(grids.id, sort=True),
        Field(grids.pipeline_id, "pipeline"),
        Field(grids.created),
        Field(grids.axes),
        Field(users.name, "owner", shown=False),
    )
    source = sa.join(Grid.__table__, User.__table__, grids.owner_id == users.id)
    by = grids.id
    within = grids.pipeline_id == pipelines.id
    owner = grids.owner_id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> GridSummary:
        """The summary of a grid, without the progress of its runs."""
        pipeline = link("pipeline", user=row.owner, pipeline=row.pipeline)
        url = f"{pipeline}/grids/{row.id}"
        axes: list[AxisDocument] = [
            {
                "tasks": [f"{pipeline}/tasks/{task}" for task in axis["tasks"]],
                "option": axis["option"],
                "values": axis["values"],
            }
            for axis in row.axes
        ]
        return {
            "id": row.id,
            "url": url,
            "pipeline": pipeline,
            "created": row.created,
            "axes": axes,
            "runs": f"{url}/runs",
        }

    def document(self) -> GridDocument:
        """The grid, with the progress of its runs."""
        statuses = runs.statuses_of_grid(self.request.reader, self.id)
        over = sum(count for status, count in statuses.items() if status in TERMINAL)
        progress: GridProgress = {"runs": sum(statuses.values()), "over": over, "statuses": statuses}
        jobs = Job.run_id.in_(sa.select(Run.id).where(Run.grid_id == self.id))
        warnings = list(self.request.reader.scalars(waits.warnings(jobs)))
        return {**self.describe(self.row, self.link), "progress": progress, "warnings": warnings}


class Grids(Collection[GridItem]):
    """The grids of a pipeline, newest first."""

    item = GridItem
    tied_by = grids.pipeline_id
