"""Queries, bodies and forms about files."""

import colander

from mlapi import strict_json
from mlapi.file_names import plain_name
from mlapi.schemas.links import Id
from mlapi.schemas.types import Json, Schema, Text

TAGS = 100
"""Tags of a file at most."""


class JsonText(Json):
    """A JSON value as the text of a form field."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the value, or raise `colander.Invalid` where the text is no JSON or the value cannot be kept."""
        if not isinstance(cstruct, str):
            return super().deserialize(node, cstruct)
        try:
            value = strict_json.loads(cstruct)
        except strict_json.NotJson:
            raise colander.Invalid(node, "Must be JSON.") from None
        return super().deserialize(node, value)


def tags(kind: type[Json] = Json, **kw: object) -> colander.SchemaNode:
    """The tags of a file: an object of JSON values."""
    return colander.SchemaNode(kind(dict, depth=4, items=4 * TAGS), validator=colander.Length(max=TAGS), **kw)


def is_plain(node: colander.SchemaNode, value: str) -> None:
    """Refuse what cannot be a file's name."""
    try:
        plain_name(value)
    except ValueError as error:
        raise colander.Invalid(node, str(error)) from None


class FileChange(Schema):
    """Changes of a file: its tags."""

    tags = tags()


class FileForm(Schema):
    """The fields of an upload as a form."""

    tags = tags(JsonText, missing=colander.drop)
    parent = colander.SchemaNode(Id("file"), missing=colander.drop)


class NewFile(Schema):
    """The query string of an upload as a plain body."""

    name = colander.SchemaNode(Text(), validator=is_plain)
