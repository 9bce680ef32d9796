"""References to resources in bodies and forms: URLs."""

from typing import TYPE_CHECKING

import colander
from pyramid.threadlocal import get_current_request

from mlapi.models.base import SLUG
from mlapi.schemas.types import Text
from mlapi.values import row_id

if TYPE_CHECKING:
    from mlapi.http.request import Request


class Link(Text):
    """The URL of a resource of one of several kinds, in the tree of the request; deserializes to its keys.

    The host of the URL is ignored, and its path is relative to the root of the application. The current request comes
    from Pyramid's thread-local: binding the schema to a request would clone it, which is slower than the validation.
    """

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the keys, or raise `colander.Invalid` for any other text."""
        url = super().deserialize(node, cstruct)
        if not isinstance(url, str):
            return url
        request: Request = get_current_request()
        keys = request.context.tree.match(url, self.kinds, request.script_name)
        if keys is None:
            raise colander.Invalid(node, f"Must be a URL like {request.context.tree.template(self.kinds[0])}.")
        return keys


class Id(Link):
    """The URL of an item; deserializes to its id, or to 0, which no row has, if its parents are not the request's."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the id, or raise `colander.Invalid` for any other text."""
        keys = super().deserialize(node, cstruct)
        if not isinstance(keys, dict):
            return keys
        request: Request = get_current_request()
        own = row_id(keys.pop(self.kinds[0]))
        here = request.context.keys
        return own if own and all(str(here[name]) == key for name, key in keys.items() if name in here) else 0


class AnyId(Link):
    """The URL of an item of one of several kinds; deserializes to the kind, the id and the ids of its parents.

    The id is 0, which no row has, if the URL is below another user than that of the request.
    """

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the kind, the id and the ids of the parents, or raise `colander.Invalid` for any other text."""
        keys = super().deserialize(node, cstruct)
        if not isinstance(keys, dict):
            return keys
        request: Request = get_current_request()
        kind = next(kind for kind in self.kinds if kind in keys)
        user = keys.pop("user", None)
        foreign = user is not None and user != str(request.context.keys.get("user", user))
        own = keys.pop(kind)
        return kind, 0 if foreign else row_id(own) or 0, {name: row_id(key) or 0 for name, key in keys.items()}


class NameOf(Link):
    """The URL of an item that is identified by its name, a slug; deserializes to the name."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the name, or raise `colander.Invalid` for any other text."""
        keys = super().deserialize(node, cstruct)
        if not isinstance(keys, dict):
            return keys
        [kind] = self.kinds
        if not SLUG.fullmatch(keys[kind]):
            raise colander.Invalid(node, f"{kind.capitalize()} not found.")
        return keys[kind]
