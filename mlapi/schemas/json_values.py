"""JSON values of any shape, within limits of depth, size and bytes."""

from collections.abc import Callable

import colander
import orjson
from pyramid.threadlocal import get_current_request

from mlapi.settings import Settings
from mlapi.values import unkeepable


class Json(colander.SchemaType):
    """Any JSON value that both databases can store, within limits of depth and size.

    `limit` returns the maximum size in bytes from the settings of the request.
    """

    def __init__(
        self,
        limit: Callable[[Settings], int],
        kind: type | None = None,
        depth: int = 16,
        items: int = 10_000,
    ) -> None:
        self.limit, self.kind, self.depth, self.items = limit, kind, depth, items

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the value unchanged, or raise `colander.Invalid` if it cannot be stored."""
        if cstruct is colander.null:
            return colander.null
        if self.kind is not None and not isinstance(cstruct, self.kind):
            raise colander.Invalid(node, "Must be an object." if self.kind is dict else "Must be a list.")
        if problem := unkeepable(cstruct, self.depth, self.items):
            raise colander.Invalid(node, problem)
        limit = self.limit(get_current_request().settings)
        if len(orjson.dumps(cstruct)) > limit:
            raise colander.Invalid(node, f"Must have at most {limit} bytes of JSON.")
        return cstruct
