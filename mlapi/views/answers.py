"""The answers that many views give."""

from typing import Any
from urllib.parse import urlencode

from mlapi.errors import FieldError
from mlapi.http.problems import InvalidRequest
from mlapi.resources.base import Collection, Item


def page(collection: Collection, request: Any) -> dict[str, Any]:
    """List what is here and the caller may see, a page at a time."""
    rows, cursor = collection.page(**request.validated["query"])
    more = cursor and f"{request.path_url}?{urlencode({**request.GET, 'after': cursor})}"
    return {"items": collection.describe(rows), "next": more}


def show(item: Item, _request: Any) -> Item:
    """Show it."""
    return item


def created(item: Item, request: Any, new: bool = True) -> dict[str, Any]:
    """201 with the location of what was made, or 200 where it was there before."""
    request.response.status_code = 201 if new else 200
    described = item.__json__(request)
    request.response.location = described["url"]
    return described


def deleted(**gone: int) -> dict[str, Any]:
    """How many of each kind were deleted."""
    return {"deleted": gone}


def idempotency_key(request: Any) -> str | None:
    """The Idempotency-Key of a request, or None; raises `InvalidRequest` for one that is too long or not ASCII."""
    key: str | None = request.headers.get("Idempotency-Key")
    if key is not None and not (key.isascii() and key.isprintable() and 1 <= len(key) <= 200):
        raise InvalidRequest(
            {"header": [FieldError("Idempotency-Key", "Must be 1 to 200 printable ASCII characters.")]}
        )
    return key
