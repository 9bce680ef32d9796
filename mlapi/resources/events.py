"""Events of a resource: who did what to it, and when."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypedDict, TypeVar

import sqlalchemy as sa

from mlapi.models.base import JsonObject
from mlapi.models.events import OF_SUBJECT
from mlapi.prepared import fetch
from mlapi.resources.items import Item
from mlapi.resources.tree import Part, Url

AnyItem = TypeVar("AnyItem", bound=Item[object, object])


class EventDocument(TypedDict):
    """An event: who (`actor`) did what to which resource, and when; `number` is the cursor after it."""

    number: int
    time: datetime.datetime
    actor: str
    action: str
    kind: str
    subject: Url | None
    data: JsonObject


class Row(NamedTuple):
    """A row of the SELECT of a page."""

    id: int
    created: datetime.datetime
    actor: str
    action: str
    kind: str
    subject_id: int
    data: JsonObject


class Events(Part[AnyItem]):
    """The events of an item, in the order of their transactions."""

    statement: ClassVar[sa.Select[*tuple[Any, ...]]]
    """The SELECT of a page, with the parameters of `of_item`, `after` and `limit`."""

    @property
    def of_item(self) -> Mapping[str, object]:
        """The parameters of the statement for this item."""
        raise NotImplementedError

    def subject(self, kind: str, row_id: int) -> Url | None:
        """The URL of the resource of a kind with this id, or None if it has none."""
        raise NotImplementedError

    def page(self, limit: int, after: int) -> tuple[Sequence[EventDocument], int | None]:
        """At most `limit` events after the cursor `after`, and the next cursor."""
        values = {**self.of_item, "limit": limit + 1, "after": after}
        rows = fetch(self.request.reader, self.statement, values)
        kept = [Row(*row) for row in rows[:limit]]
        documents: list[EventDocument] = [
            {
                "number": row.id,
                "time": row.created,
                "actor": row.actor,
                "action": row.action,
                "kind": row.kind,
                "subject": self.subject(row.kind, row.subject_id),
                "data": row.data,
            }
            for row in kept
        ]
        return documents, kept[-1].id if len(rows) > limit else None


class OwnEvents(Events[AnyItem]):
    """The events of an item alone."""

    statement = OF_SUBJECT

    @property
    def of_item(self) -> Mapping[str, object]:
        """The item."""
        return {"kind": self.item.kind, "subject": self.item.id}

    def subject(self, kind: str, row_id: int) -> Url | None:  # noqa: ARG002 - there is only the item
        """The URL of the item."""
        item: Url = self.link(self.item.kind, **self.keys)
        return item
