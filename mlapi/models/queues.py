"""Queues: where queued jobs wait for workers."""

from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from mlapi.models.base import JsonObject, Numbered

DEFAULT = "default"
"""The name of the queue of jobs that name none; it always exists."""

DEFAULT_ID = 1
"""The id of the default queue."""


class Queue(Numbered):
    """A queue: its lock, how many of its jobs may run at once, and the defaults of its jobs."""

    __tablename__ = "queues"
    __table_args__ = (sa.UniqueConstraint("name"), {"sqlite_autoincrement": True})

    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    is_locked: Mapped[bool] = mapped_column("locked", default=False)
    job_limit: Mapped[int | None]
    timeout: Mapped[float | None]
    attempts: Mapped[int | None]
    resources: Mapped[JsonObject | None]


@sa.event.listens_for(Queue.__table__, "after_create")
def _create_default(table: object, connection: sa.Connection, **_options: object) -> None:
    connection.execute(sa.insert(cast(sa.Table, table)).values(name=DEFAULT))
