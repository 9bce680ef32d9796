"""What is said of files."""

from typing import Any

import colander

from mlapi.file_names import plain_name
from mlapi.schemas.types import Json, Schema, Text

TAGS = 100
"""Tags of a file at most."""


def tags(**kw: object) -> colander.SchemaNode:
    """The tags of a file: an object of JSON values."""
    return colander.SchemaNode(Json(dict, depth=4, items=4 * TAGS), validator=colander.Length(max=TAGS), **kw)


def is_plain(node: Any, value: str) -> None:
    """Refuse what cannot be a file's name."""
    try:
        plain_name(value)
    except ValueError as error:
        raise colander.Invalid(node, str(error)) from None


class FileChange(Schema):
    """What of a file may change: its tags."""

    tags = tags()


class NewFile(Schema):
    """What a raw upload says in its query string."""

    name = colander.SchemaNode(Text(), validator=is_plain)
