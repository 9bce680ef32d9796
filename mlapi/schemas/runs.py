"""Bodies that start runs."""

import colander

from mlapi.schemas.types import List, Schema, Text

FILES = 1000
"""Files of a run at most."""


class NewRun(Schema):
    """A run to be started, over files given by their URLs, in this order."""

    files = colander.SchemaNode(List(FILES), colander.SchemaNode(Text(), name="file"), missing=())
