"""Files: immutable contents under a name, with tags, an owner, and where they came from."""

import enum
import functools
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.models.base import Numbered
from mlapi.models.errors import Held


class Kind(enum.StrEnum):
    """How a file came to be."""

    INPUT = "INPUT"
    """A user uploaded it."""
    OUTPUT = "OUTPUT"
    """A job made it."""


class File(Numbered):
    """A blob (SHA-256 and size), a name, tags, an owner, its parent file and the job that made it."""

    __tablename__ = "files"
    __table_args__ = (
        sa.Index(None, "owner_id", "id"),
        sa.Index(None, "sha256"),
        sa.Index(None, "job_id"),
        sa.Index(None, "parent_id"),
        {"sqlite_autoincrement": True},
    )

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    name: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int]
    kind: Mapped[str] = mapped_column(default=Kind.INPUT)
    tags: Mapped[dict[str, Any]] = mapped_column(default=dict)
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("files.id"))
    job_id: Mapped[int | None] = mapped_column(sa.ForeignKey("jobs.id"))

    @classmethod
    def owned(cls, db: Session, owner_id: int, ids: list[int]) -> list[Self]:
        """The files of these ids that the owner has; ids of nobody's or another's are passed over."""
        found = db.scalars(sa.select(cls).where(cls.owner_id == owner_id, cls.id.in_(ids)))
        by_id = {file.id: file for file in found}
        return [by_id[each] for each in ids if each in by_id]

    @classmethod
    def delete(cls, db: Session, file_id: int) -> None:
        """Delete a file; raises `Held` while a run used it or a job made or took it."""
        file = db.get_one(cls, file_id, with_for_update=True)
        if holders := db.execute(_holders(), {"file": file_id}).all():
            raise Held("Runs or jobs hold this file.", holders)
        db.execute(sa.update(cls).where(cls.parent_id == file_id).values(parent_id=None))
        db.delete(file)
        db.flush()


@functools.cache
def _holders() -> Any:
    """The SELECT of the runs over a file, the jobs that took it, and the job that made it, twenty at most."""
    from mlapi.models.jobs import Job, JobInput
    from mlapi.models.runs import Run, RunFile

    this: Any = sa.bindparam("file")
    of_job = sa.select(Run.pipeline_id, Run.id, Job.id).join(Job, Job.run_id == Run.id)
    none = sa.cast(sa.null(), Job.id.type)
    over_it = (
        sa.select(Run.pipeline_id, Run.id, none).join(RunFile, RunFile.run_id == Run.id).where(RunFile.file_id == this)
    )
    took_it = of_job.join(JobInput, JobInput.job_id == Job.id).where(JobInput.file_id == this)
    made_it = of_job.join(File, File.job_id == Job.id).where(File.id == this)
    return sa.union(over_it, took_it, made_it).limit(20)
