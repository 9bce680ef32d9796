"""The metrics of a job, as series of points."""

import datetime
from typing import TypedDict

import sqlalchemy as sa

from mlapi.models import Attempt, Job
from mlapi.models.metrics import points_of, series_of
from mlapi.resources.items import Item
from mlapi.resources.tree import Part

attempts, jobs = Attempt.__table__.c, Job.__table__.c

_JOB = sa.bindparam("job", type_=sa.BigInteger)
_reused = Job.__table__.alias("reused")
_source = sa.select(_reused.c.reused_from_id).where(_reused.c.id == _JOB).scalar_subquery()
_ATTEMPT = (
    sa.select(attempts.id)
    .join_from(Attempt.__table__, Job.__table__, sa.and_(attempts.job_id == jobs.id, attempts.number == jobs.attempt))
    .where(jobs.id == sa.func.coalesce(_source, _JOB))
    .scalar_subquery()
)
"""The current attempt of the job `job`, or of the job whose results it has."""

_SERIES, _ONE, _POINTS = series_of(_ATTEMPT, named=False), series_of(_ATTEMPT, named=True), points_of(_ATTEMPT)


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
    """The metrics of a job: one series for each name."""

    series: list[SeriesDocument]


class JobMetrics(Part[Item[object, object]]):
    """The metrics of a job's current attempt."""

    def document(self, name: str | None, after: int, points: int) -> MetricsDocument:
        """All series without their points, or the series of a name with at most `points` points after a number."""
        job, reader = {"job": self.item.id}, self.request.reader
        named = job | {"name": name}
        found = reader.execute(_SERIES, job) if name is None else reader.execute(_ONE, named)
        rows = found.all()
        thinned = reader.execute(_POINTS, named | {"after": after, "points": points}) if name is not None else ()
        own = [point(*row) for row in thinned]
        return {
            "series": [{"name": row.name, "count": row.count, "last": point(*row[2:]), "points": own} for row in rows]
        }


def point(number: int, step: int | None, value: float, time: datetime.datetime) -> PointDocument:
    """The document of a point."""
    return {"number": number, "step": step, "value": value, "time": time}
