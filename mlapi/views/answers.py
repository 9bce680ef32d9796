"""Views and documents that many services share."""

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
    """A page of a list, and the URL of the next page or null."""

    items: Sequence[Summary]
    next: str | None


class Deletion(TypedDict):
    """The number of deleted resources of each kind."""

    deleted: dict[str, int]


def listing(collection: type[Collection[Item[object, object]]]) -> Expects:
    """The query string of the list of a collection: the page, and filters by fields."""
    return Expects(query=list_query(collection.item.fields.filters(collection.flat)))


def page(collection: Collection[Item[Summary, Document]], request: Request) -> Page[Summary]:
    """List the items that are visible to the caller, page by page."""
    rows, cursor = collection.page(**request.validated["query"], most_bytes=request.settings.page_limit)
    following = f"{request.path_url}?{urlencode({**request.GET, 'after': cursor})}" if cursor else None
    return {"items": collection.describe(rows), "next": following}


def show(item: Item[Summary, Document], _request: Request) -> Document:
    """Show the resource."""
    return item.document()


def created(item: Item[Summary, Document], request: Request, new: bool = True) -> Document:
    """The document of an item, with status 201 and its location, or with 200 if it is not `new`."""
    request.response.status_code = 201 if new else 200
    document = item.document()
    request.response.location = cast("dict[str, str]", document)["url"]
    return document


def deletion(**counts: int) -> Deletion:
    """The number of deleted resources of each kind."""
    return {"deleted": counts}
