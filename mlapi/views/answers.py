"""Answers that many views give."""

from collections.abc import Sequence
from typing import Generic, TypedDict, TypeVar, cast
from urllib.parse import urlencode

from mlapi.http.request import Request
from mlapi.resources.items import Collection, Item
from mlapi.schemas.pages import list_query
from mlapi.service import Expects

Summary = TypeVar("Summary")
Document = TypeVar("Document")


class Page(TypedDict, Generic[Summary]):
    """A page of a list, and the URL of the next one."""

    items: Sequence[Summary]
    next: str | None


class Deletion(TypedDict):
    """How many resources of each kind were deleted."""

    deleted: dict[str, int]


def listing(collection: type[Collection[Item[object, object]]]) -> Expects:
    """What the list of a collection expects: a page, and filters by its fields."""
    return Expects(query=list_query(collection.item.fields.filters(collection.flat)))


def page(collection: Collection[Item[Summary, Document]], request: Request) -> Page[Summary]:
    """List the items that the caller may see, a page at a time."""
    rows, cursor = collection.page(**request.validated["query"])
    following = f"{request.path_url}?{urlencode({**request.GET, 'after': cursor})}" if cursor else None
    return {"items": collection.describe(rows), "next": following}


def show(item: Item[Summary, Document], _request: Request) -> Document:
    """Show it."""
    return item.document()


def created(item: Item[Summary, Document], request: Request, new: bool = True) -> Document:
    """201 with the location of a new item, or 200 for one that existed before."""
    request.response.status_code = 201 if new else 200
    document = item.document()
    request.response.location = cast("dict[str, str]", document)["url"]
    return document


def deletion(**counts: int) -> Deletion:
    """How many resources of each kind were deleted."""
    return {"deleted": counts}
