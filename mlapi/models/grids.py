"""Grids: the runs of a pipeline with all combinations of some values of its arguments."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from mlapi.models.base import JsonList, Numbered

COMBINATIONS = 1000
"""Maximum number of runs of a grid."""

AXES = 10
"""Maximum number of axes of a grid."""


class Grid(Numbered):
    """A group of runs that were started together. `axes` are the arguments that vary, with their values."""

    __tablename__ = "grids"
    __table_args__ = (
        sa.Index(None, "pipeline_id", "id"),
        sa.Index(None, "owner_id", "id"),
        sa.UniqueConstraint("pipeline_id", "idempotency_key"),
        {"sqlite_autoincrement": True},
    )

    pipeline_id: Mapped[int] = mapped_column(sa.ForeignKey("pipelines.id"))
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[str | None]
    axes: Mapped[JsonList]
    run_count: Mapped[int]
