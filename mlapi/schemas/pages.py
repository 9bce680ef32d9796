"""Query strings of lists: the size of the page, the cursor, and the filters of the collection."""

import enum
from collections.abc import Mapping
from typing import Protocol

import colander

from mlapi.schemas.types import Schema, Text
from mlapi.values import INT64, PAGE


class Number(Text):
    """A non-negative integer in a query string."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the integer, or raise `colander.Invalid` for anything except up to 19 digits."""
        text = super().deserialize(node, cstruct)
        if not isinstance(text, str):
            return text
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < INT64):
            raise colander.Invalid(node, "Must be a whole number.")
        return int(text)


class TrueOrFalse(Text):
    """A boolean in a query string."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the boolean, or raise `colander.Invalid` for anything except `true` and `false`."""
        text = super().deserialize(node, cstruct)
        if not isinstance(text, str):
            return text
        if text not in ("true", "false"):
            raise colander.Invalid(node, "Must be true or false.")
        return text == "true"


def optional(kind: colander.SchemaType, **kw: object) -> colander.SchemaNode:
    """An optional query parameter."""
    return colander.SchemaNode(kind, missing=colander.drop, **kw)


class Page(Schema):
    """The size of a page and its cursor."""

    limit = colander.SchemaNode(Number(), missing=50, validator=colander.Range(1, PAGE))
    after = optional(Number())


class Filterable(Protocol):
    """A field by which a list can be filtered."""

    @property
    def python_type(self) -> type:
        """The Python type of the values."""

    @property
    def choices(self) -> type[enum.StrEnum] | None:
        """The allowed values, if they are enumerated."""


PARAMETERS: dict[type, type[Text]] = {bool: TrueOrFalse, int: Number, str: Text}
"""The types of query parameters, by the Python type of the field that they filter."""


def list_query(filters: Mapping[str, Filterable]) -> colander.Schema:
    """The query string of a list with these filters."""
    schema = Page()
    for name, field in filters.items():
        choices = colander.OneOf(list(field.choices)) if field.choices else None
        schema.add(optional(PARAMETERS[field.python_type](), name=name, validator=choices))
    return schema
