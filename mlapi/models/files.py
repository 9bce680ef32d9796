"""Files: immutable contents with a name, tags, an owner and their origin."""

import enum
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Gone, Invalid
from mlapi.models.base import JsonObject, Numbered, affected_rows, protect


class Kind(enum.StrEnum):
    """The origin of a file."""

    INPUT = "INPUT"
    """Uploaded by a user."""
    OUTPUT = "OUTPUT"
    """Created by a job."""


class File(Numbered):
    """A blob (SHA-256 and size) with a name, tags, an owner, a parent file and the job that created it."""

    __tablename__ = "files"
    __table_args__ = (
        sa.Index(None, "owner_id", "id"),
        sa.Index(None, "owner_id", "kind", "name", "id"),
        sa.Index(None, "owner_id", "kind", "id"),
        sa.Index(None, "owner_id", "sha256", "id"),
        sa.Index(None, "owner_id", "job_id", "id"),
        sa.Index(None, "kind", "name", "id"),
        sa.Index(None, "kind", "id"),
        sa.Index(None, "sha256", "id"),
        sa.Index(None, "job_id", "id"),
        sa.Index(None, "parent_id"),
        {"sqlite_autoincrement": True},
    )

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    name: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int]
    kind: Mapped[str] = mapped_column(default=Kind.INPUT)
    tags: Mapped[JsonObject] = mapped_column(default=dict)
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("files.id"))
    job_id: Mapped[int | None] = mapped_column(sa.ForeignKey("jobs.id"))

    @classmethod
    def names(cls, db: Session, owner_id: int, ids: Sequence[int]) -> dict[int, str]:
        """The names of the files with these ids by id, without those that do not exist or have another owner.

        They are protected from deletion until the end of the transaction.
        """
        query = sa.select(cls.id, cls.name).where(cls.owner_id == owner_id, cls.id.in_(ids)).order_by(cls.id)
        return {row.id: row.name for row in db.execute(protect(query, cls))}


_INSERT = sa.insert(File.metadata.tables["files"]).returning(File.id)
"""The INSERT of a file, built once: small files are uploaded one by one."""


def create(
    db: Session,
    owner_id: int,
    name: str,
    sha256: str,
    size: int,
    tags: JsonObject | None = None,
    parent_id: int | None = None,
) -> int:
    """Create a file for a stored blob, and return its id.

    Raises `Invalid` for a parent that is not a file of the same owner.
    """
    if parent_id is not None and not File.names(db, owner_id, [parent_id]):
        raise Invalid.field("parent", "File not found.")
    values = {
        "owner_id": owner_id,
        "name": name,
        "sha256": sha256,
        "size": size,
        "tags": tags or {},
        "parent_id": parent_id,
    }
    return int(db.execute(_INSERT, values).scalar_one())


def change_tags(db: Session, file_id: int, tags: JsonObject) -> None:
    """Replace the tags of a file; its name and content are immutable."""
    if not affected_rows(db, sa.update(File).where(File.id == file_id).values(tags=tags)):
        raise Gone()
