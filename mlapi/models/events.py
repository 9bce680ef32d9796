"""Events: who did what to which resource, and when; written in the transaction of what they report."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.sql.functions import GenericFunction

from mlapi.database import ACTOR
from mlapi.models.base import JsonObject, Numbered, spelled

SERVICE = "service"
"""The actor of a transaction for which nobody else is known."""


class transaction_id(GenericFunction[int]):  # noqa: N801 - it is written as the SQL function that it is
    """The id of the current transaction; 0 in SQLite, whose transactions commit in the order of their events."""

    type = sa.BigInteger()
    inherit_cache = True


class oldest_transaction(GenericFunction[int]):  # noqa: N801 - it is written as the SQL function that it is
    """The id of the oldest transaction that has not ended; all older ones are visible. 1 in SQLite."""

    type = sa.BigInteger()
    inherit_cache = True


spelled(transaction_id, sqlite="0", postgresql="txid_current()")
spelled(oldest_transaction, sqlite="1", postgresql="txid_snapshot_xmin(txid_current_snapshot())")


class Event(Numbered):
    """An action on a resource: its kind and id, the run to which it belongs, and details.

    Ids follow the order in which events were written, not the order of the commits. `after` reads them so that none is
    missed. Events outlive their resources.
    """

    __tablename__ = "events"
    __table_args__ = (
        sa.Index(None, "run_id", "transaction_id", "id"),
        sa.Index(None, "kind", "subject_id", "transaction_id", "id"),
        {"sqlite_autoincrement": True},
    )

    actor: Mapped[str]
    action: Mapped[str]
    kind: Mapped[str]
    subject_id: Mapped[int]
    run_id: Mapped[int | None]
    data: Mapped[JsonObject]
    transaction_id: Mapped[int] = mapped_column(default=transaction_id())


settled: sa.ColumnElement[bool] = Event.transaction_id < oldest_transaction()
"""The condition for events before which no other event can appear any more."""


def record(db: Session, action: str, kind: str, subject_id: int, run_id: int | None = None, **data: object) -> None:
    """Record an action of the actor of the session on a resource."""
    record_all(db, action, kind, [(subject_id, run_id)], **data)


def record_all(db: Session, action: str, kind: str, subjects: Iterable[tuple[int, int | None]], **data: object) -> None:
    """Record the same action on several resources `(id, run)` of a kind."""
    record_each(db, action, kind, [(subject_id, run_id, data) for subject_id, run_id in subjects])


def record_each(db: Session, action: str, kind: str, subjects: Iterable[tuple[int, int | None, JsonObject]]) -> None:
    """Record the same action on several resources `(id, run, details)` of a kind, in one statement."""
    actor = actor_of(db)
    rows = [
        {"actor": actor, "action": action, "kind": kind, "subject_id": subject_id, "run_id": run_id, "data": data}
        for subject_id, run_id, data in subjects
    ]
    if rows:
        db.execute(sa.insert(Event), rows)


def actor_of(db: Session) -> str:
    """Who acts in a session, such as `user:ada`: a text in its `info`, or a function that returns it."""
    actor = db.info.get(ACTOR)
    return (actor() if callable(actor) else actor) or SERVICE


_events = Event.__table__.c
_AFTER = sa.bindparam("after", type_=sa.BigInteger)
_before = sa.select(_events.transaction_id).where(_events.id <= _AFTER).order_by(_events.id.desc()).limit(1)
_PAGE = (
    sa.select(
        _events.id,
        _events.created,
        _events.actor,
        _events.action,
        _events.kind,
        _events.subject_id,
        _events.data,
    )
    .where(
        settled,
        sa.tuple_(_events.transaction_id, _events.id)
        > sa.tuple_(sa.func.coalesce(_before.scalar_subquery(), 0), _AFTER),
    )
    .order_by(_events.transaction_id, _events.id)
    .limit(sa.bindparam("limit", type_=sa.BigInteger))
)
OF_RUN = _PAGE.where(_events.run_id == sa.bindparam("run"))
"""The events of the run `run` and of its jobs after the event `after`, at most `limit`.

They are in the order of transactions, and only those of transactions before which no other can appear any more: a
reader who continues after the last event of a page misses none.
"""
OF_SUBJECT = _PAGE.where(_events.kind == sa.bindparam("kind"), _events.subject_id == sa.bindparam("subject"))
"""The events of the resource `subject` of a kind, as in `OF_RUN`."""
