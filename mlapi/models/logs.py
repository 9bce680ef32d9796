"""The logs of attempts: pieces in the database while an attempt runs, and a blob some time after its end."""

from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.database import Reader
from mlapi.errors import Conflict
from mlapi.models.attempts import Attempt, Fence, hold
from mlapi.models.base import Base, affected_rows, clock
from mlapi.storage import BlobStore, MissingBlob

WINDOW = 2**20
"""Bytes of a log that are read from the database at a time."""


class LogPiece(Base):
    """A part of an attempt's log, starting at an offset in bytes."""

    __tablename__ = "log_pieces"

    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempts.id"), primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]


def append(db: Session, fence: Fence, offset: int, content: bytes, limit: int) -> int:
    """Append to the log of an attempt, which must end at `offset`; returns the new end.

    Raises `AttemptOver`, and `Conflict` with the actual end as `offset` if the log does not end there.
    """
    hold(db, fence)
    end = offset + len(content)
    if end > limit:
        raise Conflict(f"The log is limited to {limit} bytes.", limit=limit)
    log_size = sa.update(Attempt).where(Attempt.id == fence.id, Attempt.log_size == offset).values(log_size=end)
    if not affected_rows(db, log_size):
        size = db.scalars(sa.select(Attempt.log_size).where(Attempt.id == fence.id)).one()
        raise Conflict("The log does not end at this offset.", offset=size)
    if content:
        db.add(LogPiece(attempt_id=fence.id, start=offset, content=content))
        db.flush()
    return end


def read(db: Reader, attempt_id: int, start: int, stop: int) -> bytes:
    """The bytes of a log from `start` up to `stop`, as far as a window reaches; none if the log is a blob."""
    start = max(0, start)
    if start >= stop:
        return b""
    own = LogPiece.attempt_id == attempt_id
    first = sa.select(sa.func.max(LogPiece.start)).where(own, LogPiece.start <= start).scalar_subquery()
    pieces = sa.select(LogPiece.start, LogPiece.content).where(
        own, LogPiece.start >= first, LogPiece.start < min(stop, start + WINDOW)
    )
    rows = db.execute(pieces.order_by(LogPiece.start))
    return b"".join(bytes(content)[max(0, start - begin) : stop - begin] for begin, content in rows)


def chunks(
    reading: Callable[[], sa.Connection], store: BlobStore, attempt_id: int, start: int, stop: int
) -> Iterator[bytes]:
    """The bytes of a log from `start` up to `stop`, from the database or the store, wherever they are by then.

    Raises `MissingBlob` if the log is deleted in the meantime.
    """
    while start < stop:
        with reading() as db:
            content = read(db, attempt_id, start, stop)
            sha256 = None if content else db.scalar(sa.select(Attempt.log_sha256).where(Attempt.id == attempt_id))
        if sha256 is not None:
            yield from store.open(sha256, start, stop)
            return
        if not content:
            raise MissingBlob("The log has been deleted.")
        start += len(content)
        yield content


def settled(db: Reader, age: float, after: int, limit: int) -> Sequence[tuple[int, int]]:
    """At most `limit` attempts `(id, log size)` that ended `age` seconds ago and have pieces, with ids over `after`."""
    with_pieces = sa.select(LogPiece.attempt_id).distinct()
    query = sa.select(Attempt.id, Attempt.log_size).where(Attempt.id > after, Attempt.ended < clock(-age))
    return [
        (row.id, row.log_size)
        for row in db.execute(query.where(Attempt.id.in_(with_pieces)).order_by(Attempt.id).limit(limit))
    ]


def replace(db: Session, attempt_id: int, sha256: str) -> None:
    """Replace the pieces of the log of an attempt that has ended by a blob with the same content."""
    db.execute(sa.update(Attempt).where(Attempt.id == attempt_id).values(log_sha256=sha256))
    db.execute(sa.delete(LogPiece).where(LogPiece.attempt_id == attempt_id))
