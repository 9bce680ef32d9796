"""Metrics: the numbers that attempts record, each with a name, and a step if it is a point of a series."""

import datetime
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict
from mlapi.models.base import Base, JsonObject, Time, clock

NAME = 200
"""Maximum length of the name of a metric in characters."""

NAMES = 1000
"""Maximum number of names of metrics of an attempt."""

POINTS = 1000
"""Maximum number of points that a request records, or that a response has of each series."""


class Metric(Base):
    """A value of a metric. `number` (from 1) is its place in the order in which the attempt recorded them."""

    __tablename__ = "metrics"
    __table_args__ = (sa.Index(None, "attempt_id", "name", "number"),)

    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempts.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    step: Mapped[int | None]
    value: Mapped[float]
    time: Mapped[Time]


class Point(NamedTuple):
    """A value of a metric, as a runner sends it."""

    name: str
    value: float
    step: int | None
    time: datetime.datetime


def append(db: Session, attempt_id: int, offset: int, points: Sequence[Point], limit: int) -> int:
    """Append points to the `offset` ones of an attempt whose job is locked; returns their new number.

    Raises `Conflict`, with the actual number as `offset` if it is another, or with the `limit` of their number or of
    that of their names.
    """
    count = _count(db, attempt_id)
    if count != offset:
        raise Conflict("The attempt has another number of points.", offset=count)
    if offset + len(points) > limit:
        raise Conflict(f"An attempt can record {limit} points of metrics.", limit=limit)
    if points and len(_names(db, attempt_id).union(point.name for point in points)) > NAMES:
        raise Conflict(f"An attempt can record metrics of {NAMES} names.", limit=NAMES)
    rows = [{"number": number, **point._asdict()} for number, point in enumerate(points, offset + 1)]
    if rows:
        db.execute(sa.insert(Metric).values(attempt_id=attempt_id), rows)
    return offset + len(points)


def record_final(db: Session, attempt_id: int, metrics: JsonObject) -> None:
    """Record the numbers in the metrics of a report, without a step; the names of nested ones have dots.

    Numbers whose names are too long, or too many, are in the metrics of the job only.
    """
    names = _names(db, attempt_id) if metrics else set()
    rows = []
    for name, value in numbers(metrics):
        if len(name) <= NAME and (name in names or len(names) < NAMES):
            names.add(name)
            rows.append({"name": name, "value": value})
    if rows:
        first = _count(db, attempt_id) + 1
        numbered = [{"number": number, **row} for number, row in enumerate(rows, first)]
        db.execute(sa.insert(Metric).values(attempt_id=attempt_id, time=clock()), numbered)


def numbers(metrics: JsonObject, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in an object and in the objects within it, with their names."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _count(db: Session, attempt_id: int) -> int:
    """The number of points of an attempt, which is the number of the last one."""
    return db.scalar(sa.select(sa.func.max(Metric.number)).where(Metric.attempt_id == attempt_id)) or 0


def _names(db: Session, attempt_id: int) -> set[str]:
    """The names of the points of an attempt: one step in the index for each."""
    own = sa.select(sa.func.min(Metric.name)).where(Metric.attempt_id == attempt_id)
    found = own.cte("found", recursive=True)
    name = found.c[0]
    following = own.where(Metric.name > name).correlate(found).scalar_subquery()
    found = found.union_all(sa.select(following).where(name.is_not(None)))
    return {name for name in db.scalars(sa.select(found)) if name is not None}


_table = Metric.__table__
_columns = _table.c


def series_of(attempt: sa.ColumnElement[int], *, named: bool) -> sa.Select[str, int, int, int | None, float, object]:
    """The SELECT of the series of an attempt: name, count, and the number, step, value and time of the last point.

    With all names, or the one that the parameter `name` is.
    """
    of_attempt = [_columns.attempt_id == attempt] + [_columns.name == sa.bindparam("name")] * named
    groups = (
        sa.select(_columns.name, sa.func.count().label("count"), sa.func.max(_columns.number).label("last"))
        .where(*of_attempt)
        .group_by(_columns.name)
        .order_by(_columns.name)
        .subquery()
    )
    query = sa.select(groups.c.name, groups.c.count, _columns.number, _columns.step, _columns.value, _columns.time)
    query = query.join_from(groups, _table, _columns.number == groups.c.last).where(_columns.attempt_id == attempt)
    return query.order_by(groups.c.name)


def points_of(attempt: sa.ColumnElement[int]) -> sa.Select[int, int | None, float, object]:
    """The SELECT of the points of the series `name` of an attempt after the point with the number `after`.

    If they are more than `points`, every second, third, … of them, counted back from the last one.
    """
    place = sa.func.row_number().over(order_by=_columns.number.desc()) - 1
    own = sa.select(_columns.number, _columns.step, _columns.value, _columns.time, place.label("place"))
    own = own.add_columns(sa.func.count().over().label("total"))
    points = own.where(
        _columns.attempt_id == attempt,
        _columns.name == sa.bindparam("name"),
        _columns.number > sa.bindparam("after", type_=sa.BigInteger),
    ).subquery()
    most = sa.bindparam("points", type_=sa.BigInteger)
    query = sa.select(points.c.number, points.c.step, points.c.value, points.c.time)
    return query.where(points.c.place % ((points.c.total + most - 1) // most) == 0).order_by(points.c.number)
