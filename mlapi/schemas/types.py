"""Colander types without coercion, and a mapping that reports unknown fields.

Colander's own types coerce: its Integer accepts ``"3"``, ``3.7`` and ``true``; its String treats ``{}`` as missing. A
value of the wrong type must be an error instead.
"""

import math
from collections.abc import Callable
from itertools import islice

import colander

from mlapi.values import INT64, storable

UNKNOWN = 99
"""Maximum number of unknown fields in the errors of an object; if there are more, one error has their number."""


class Exact(colander.SchemaType):
    """A JSON value of exactly one type, without coercion."""

    python: type | tuple[type, ...] = object
    words = "a value"

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the value unchanged, or raise `colander.Invalid` if it has another type."""
        if cstruct is colander.null:
            return colander.null
        if not self.holds(cstruct):
            raise colander.Invalid(node, f"Must be {self.words}.")
        return cstruct

    def holds(self, value: object) -> bool:
        """Whether `value` has this type; a bool is not a number."""
        return isinstance(value, self.python) and not isinstance(value, bool)


class Text(Exact):
    """A string that both databases can store: without NUL and lone surrogates."""

    python, words = str, "a string"

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the string, or raise `colander.Invalid` if it cannot be stored."""
        value = super().deserialize(node, cstruct)
        if isinstance(value, str) and not storable(value):
            raise colander.Invalid(node, "Must not contain NUL or lone surrogates.")
        return value


class Whole(Exact):
    """An integer of 64 bits."""

    python, words = int, "an integer of 64 bits"

    def holds(self, value: object) -> bool:
        """Whether `value` is an integer of 64 bits."""
        return super().holds(value) and isinstance(value, int) and -INT64 <= value < INT64


class Real(Exact):
    """A finite number."""

    python, words = (int, float), "a finite number"

    def holds(self, value: object) -> bool:
        """Whether `value` is a number, but not NaN or an infinity."""
        if not isinstance(value, int | float) or not super().holds(value):
            return False
        return abs(value) < INT64**16 and math.isfinite(value)


class Flag(Exact):
    """A boolean."""

    words = "true or false"

    def holds(self, value: object) -> bool:
        """Whether `value` is a bool."""
        return isinstance(value, bool)


class Object(colander.Mapping):
    """A mapping that reports an error for every unknown key."""

    def __init__(self) -> None:
        super().__init__(unknown="raise")

    def _impl(
        self, node: colander.SchemaNode, value: object, callback: object, default_or_missing: object = None
    ) -> object:
        if not isinstance(value, dict):
            raise colander.Invalid(node, "Must be an object.")
        known = {child.name for child in node.children}
        error = None
        result = None
        try:
            kept = {key: item for key, item in value.items() if key in known}
            result = super()._impl(node, kept, callback, default_or_missing)
        except colander.Invalid as invalid:
            error = invalid
        unknown = len(value.keys() - known)
        if unknown:
            error = error or colander.Invalid(node)
        if error is None:
            return result
        if unknown > UNKNOWN:
            error.add(_error("", f"{unknown} unknown fields."))
        for key in islice((key for key in value if key not in known), UNKNOWN):
            error.add(_error(str(key), "Unknown field."))
        raise error


def _error(name: str, description: str) -> colander.Invalid:
    return colander.Invalid(colander.SchemaNode(Text(), name=name), description)


class List(colander.Sequence):
    """A JSON list of at most `most` items; the items of a longer list are not validated."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most

    def deserialize(self, node: colander.SchemaNode, cstruct: object, accept_scalar: bool | None = None) -> object:
        """Return the list of the deserialized items."""
        if cstruct is not colander.null:
            if not isinstance(cstruct, list):
                raise colander.Invalid(node, "Must be a list.")
            if len(cstruct) > self.most:
                raise colander.Invalid(node, f"Must have at most {self.most} items.")
        return super().deserialize(node, cstruct, accept_scalar)


class OrNull(colander.SchemaType):
    """A value of another type, or null."""

    def __init__(self, kind: colander.SchemaType) -> None:
        self.kind = kind

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return None for null, else the value of the other type."""
        return None if cstruct is None else self.kind.deserialize(node, cstruct)


class OrNullList(List):
    """A list, or null."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object, accept_scalar: bool | None = None) -> object:
        """Return None for null, else the list."""
        return None if cstruct is None else super().deserialize(node, cstruct, accept_scalar)


def between(least: float, most: float) -> Callable[[colander.SchemaNode, float | None], None]:
    """A validator of a number within bounds, or null."""

    def validate(node: colander.SchemaNode, value: float | None) -> None:
        if value is not None and not least <= value <= most:
            raise colander.Invalid(node, f"Must be between {least} and {most}.")

    return validate


class Schema(colander.Schema):
    """Base class of schemas."""

    schema_type = Object
