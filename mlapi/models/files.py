"""Files: immutable contents under a name, with tags, an owner, and where they came from."""

import enum
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Invalid
from mlapi.models.base import Numbered


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


def create(
    db: Session,
    owner_id: int,
    name: str,
    sha256: str,
    size: int,
    tags: dict[str, Any] | None = None,
    parent_id: int | None = None,
) -> File:
    """Create a file for a stored blob. Raises `Invalid` for a parent that is not a file of the same owner."""
    if parent_id is not None and not File.owned(db, owner_id, [parent_id]):
        raise Invalid.field("parent", "File not found.")
    file = File(owner_id=owner_id, name=name, sha256=sha256, size=size, tags=tags or {}, parent_id=parent_id)
    db.add(file)
    db.flush()
    return file


def change_tags(db: Session, file_id: int, tags: dict[str, Any]) -> None:
    """Replace the tags of a file; its name and content are immutable."""
    db.get_one(File, file_id).tags = tags
    db.flush()
