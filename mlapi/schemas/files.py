"""What is said of files."""

import colander

from mlapi.schemas.types import Json, Schema, Text

TAGS = 100
"""Tags of a file at most."""


def tags(**kw: object) -> colander.SchemaNode:
    """The tags of a file: an object of JSON values."""
    return colander.SchemaNode(Json(dict, depth=4, items=4 * TAGS), validator=colander.Length(max=TAGS), **kw)


class FileChange(Schema):
    """What of a file may change: its tags."""

    tags = tags()


class NewFile(Schema):
    """What a raw upload says in its query string."""

    name = colander.SchemaNode(Text())
