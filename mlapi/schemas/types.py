"""Colander types that take JSON at its word, and a mapping that names each field it does not know.

Colander's own types coerce: its Integer takes ``"3"``, ``3.7`` and ``true``; its String takes ``{}`` for
missing. What a client of a typed API wrote wrongly must come back as an error, not as a guess.
"""

import math
from collections.abc import Callable
from itertools import islice

import colander

from mlapi.values import INT64, storable, unkeepable

UNKNOWN = 100
"""Unknown fields of an object that are named at most."""


class Exact(colander.SchemaType):
    """A JSON value of one Python type, neither coerced nor taken for missing."""

    python: type | tuple[type, ...] = object
    words = "a value"

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the value as it came, or raise `colander.Invalid` where it is of another type."""
        if cstruct is colander.null:
            return colander.null
        if not self.holds(cstruct):
            raise colander.Invalid(node, f"Must be {self.words}.")
        return cstruct

    def holds(self, value: object) -> bool:
        """Whether `value` is of this type; a bool is no number."""
        return isinstance(value, self.python) and not isinstance(value, bool)


class Text(Exact):
    """A string that both databases can keep: no NUL, no half of a surrogate pair."""

    python, words = str, "a string"

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the string, or raise `colander.Invalid` where a database would refuse it."""
        value = super().deserialize(node, cstruct)
        if isinstance(value, str) and not storable(value):
            raise colander.Invalid(node, "Must not contain NUL or lone surrogates.")
        return value


class Whole(Exact):
    """An integer of 64 bits."""

    python, words = int, "an integer of 64 bits"

    def holds(self, value: object) -> bool:
        """Whether `value` is an integer that fits a database's column."""
        return super().holds(value) and isinstance(value, int) and -INT64 <= value < INT64


class Real(Exact):
    """A finite number."""

    python, words = (int, float), "a finite number"

    def holds(self, value: object) -> bool:
        """Whether `value` is a number other than NaN and the infinities."""
        if not isinstance(value, int | float) or not super().holds(value):
            return False
        return abs(value) < INT64**16 and math.isfinite(value)


class Flag(Exact):
    """True or false, and nothing that merely looks like it."""

    words = "true or false"

    def holds(self, value: object) -> bool:
        """Whether `value` is a bool."""
        return isinstance(value, bool)


class Object(colander.Mapping):
    """A mapping that answers every unknown key with an error of its own."""

    def __init__(self) -> None:
        super().__init__(unknown="raise")

    def _impl(
        self,
        node: colander.SchemaNode,
        value: object,
        callback: Callable[..., object],
        default_or_missing: object = None,
    ) -> object:
        if not isinstance(value, dict):
            raise colander.Invalid(node, "Must be an object.")
        known = {child.name for child in node.children}
        error = None
        result = None
        try:
            kept = {key: each for key, each in value.items() if key in known}
            result = super()._impl(node, kept, callback, default_or_missing)
        except colander.Invalid as invalid:
            error = invalid
        for key in islice((key for key in value if key not in known), UNKNOWN):
            error = error or colander.Invalid(node)
            error.add(colander.Invalid(colander.SchemaNode(Text(), name=str(key)), "Unknown field."))
        if error is not None:
            raise error
        return result


class Json(colander.SchemaType):
    """Any JSON value that both databases can keep, within limits of depth and size."""

    def __init__(self, kind: type | None = None, depth: int = 16, items: int = 10_000) -> None:
        self.kind, self.depth, self.items = kind, depth, items

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the value as it came, or raise `colander.Invalid` where it cannot be kept."""
        if cstruct is colander.null:
            return colander.null
        if self.kind is not None and not isinstance(cstruct, self.kind):
            raise colander.Invalid(node, "Must be an object." if self.kind is dict else "Must be a list.")
        if problem := unkeepable(cstruct, self.depth, self.items):
            raise colander.Invalid(node, problem)
        return cstruct


class List(colander.Sequence):
    """A JSON list of at most so many items, which are not looked at where they are more."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most

    def deserialize(self, node: colander.SchemaNode, cstruct: object, accept_scalar: bool | None = None) -> object:
        """Return the list of what its items deserialize to."""
        if cstruct is not colander.null:
            if not isinstance(cstruct, list):
                raise colander.Invalid(node, "Must be a list.")
            if len(cstruct) > self.most:
                raise colander.Invalid(node, f"Must have at most {self.most} items.")
        return super().deserialize(node, cstruct, accept_scalar)


class Schema(colander.Schema):
    """What the bodies of requests derive from."""

    schema_type = Object
