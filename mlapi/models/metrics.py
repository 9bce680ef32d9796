"""Metrics: the numbers that attempts record, each with a name, and a step if it is a point of a series."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from mlapi.models.base import Base, Time


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
