"""The metrics of a job and of its attempts, as series of points."""

import datetime
from typing import ClassVar, NamedTuple, Self, TypedDict

import sqlalchemy as sa

from mlapi.models import Attempt, Job
from mlapi.models.metrics import points_of, series_of
from mlapi.resources.items import Item
from mlapi.resources.tree import Part

attempts, jobs = Attempt.__table__.c, Job.__table__.c

_ITEM = sa.bindparam("item", type_=sa.BigInteger)
_reused = Job.__table__.alias("reused")
_source = sa.select(_reused.c.reused_from_id).where(_reused.c.id == _ITEM).scalar_subquery()
_CURRENT = (
    sa.select(attempts.id)
    .join_from(Attempt.__table__, Job.__table__, sa.and_(attempts.job_id == jobs.id, attempts.number == jobs.attempt))
    .where(jobs.id == sa.func.coalesce(_source, _ITEM))
    .scalar_subquery()
)
"""The current attempt of the job `item`, or of the job whose results it has."""


class Statements(NamedTuple):
    """The SELECTs of the metrics of an attempt: all series, the one with a name, and its points."""

    series: sa.Select[str, int, int, int | None, float, object]
    one: sa.Select[str, int, int, int | None, float, object]
    points: sa.Select[int, int | None, float, object]

    @classmethod
    def of(cls, attempt: sa.ColumnElement[int]) -> Self:
        """The SELECTs for an attempt."""
        return cls(series_of(attempt, named=False), series_of(attempt, named=True), points_of(attempt))


class PointDocument(TypedDict):
    """A point of a series; `number` is the cursor after it."""

    number: int
    step: int | None
    value: float
    time: datetime.datetime


class SeriesDocument(TypedDict):
    """The metric of a name: the number of its points, the last one, and those that were asked for."""

    name: str
    count: int
    last: PointDocument
    points: list[PointDocument]


class MetricsDocument(TypedDict):
    """The metrics of an attempt: one series for each name."""

    series: list[SeriesDocument]


class Metrics(Part[Item[object, object]]):
    """The metrics of an attempt."""

    statements: ClassVar[Statements]

    def document(self, name: str | None, after: int, points: int) -> MetricsDocument:
        """All series without their points, or the series of a name with at most `points` points after a number."""
        item, reader = {"item": self.item.id}, self.request.reader
        named = item | {"name": name}
        found = (
            reader.execute(self.statements.series, item) if name is None else reader.execute(self.statements.one, named)
        )
        rows = found.all()
        thinned = named | {"after": after, "points": points}
        own = [point(*row) for row in reader.execute(self.statements.points, thinned)] if name is not None else []
        return {
            "series": [{"name": row.name, "count": row.count, "last": point(*row[2:]), "points": own} for row in rows]
        }


class JobMetrics(Metrics):
    """The metrics of a job's current attempt."""

    statements = Statements.of(_CURRENT)


class JobAttemptMetrics(Metrics):
    """The metrics of one of a job's attempts."""

    statements = Statements.of(_ITEM)


def point(number: int, step: int | None, value: float, time: datetime.datetime) -> PointDocument:
    """The document of a point."""
    return {"number": number, "step": step, "value": value, "time": time}
