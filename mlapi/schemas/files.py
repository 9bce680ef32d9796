"""Request bodies, query strings and forms of files."""

import colander

from mlapi import strict_json
from mlapi.file_names import plain_name
from mlapi.schemas.json_values import Json
from mlapi.schemas.links import Id
from mlapi.schemas.types import Schema, Text

TAGS = 100
"""Maximum number of tags of a file."""


class JsonText(Json):
    """A JSON value as the text of a form field."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the value, or raise `colander.Invalid` if the text is not JSON or the value cannot be stored."""
        if not isinstance(cstruct, str):
            return super().deserialize(node, cstruct)
        try:
            value = strict_json.loads(cstruct)
        except strict_json.NotJson:
            raise colander.Invalid(node, "Must be JSON.") from None
        return super().deserialize(node, value)


def tags(kind: type[Json] = Json, **kw: object) -> colander.SchemaNode:
    """The tags of a file: an object of JSON values."""
    values = kind(lambda settings: settings.tags_limit, dict, depth=4, items=4 * TAGS)
    return colander.SchemaNode(values, validator=colander.Length(max=TAGS), **kw)


def is_plain(node: colander.SchemaNode, value: str) -> None:
    """Validate a file name."""
    try:
        plain_name(value)
    except ValueError as error:
        raise colander.Invalid(node, str(error)) from None


class FileChange(Schema):
    """A change of the tags of a file."""

    tags = tags()


class FileForm(Schema):
    """The text fields of an upload as a form."""

    tags = tags(JsonText, missing=colander.drop)
    parent = colander.SchemaNode(Id("file"), missing=colander.drop)


class NewFile(Schema):
    """The query string of an upload as a raw body."""

    name = colander.SchemaNode(Text(), validator=is_plain)
