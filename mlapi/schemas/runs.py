"""Bodies that start runs."""

import colander

from mlapi.schemas.links import Id
from mlapi.schemas.types import List, Schema

FILES = 1000
"""Files of a run at most."""


class NewRun(Schema):
    """A run to start, over files in this order."""

    files = colander.SchemaNode(List(FILES), colander.SchemaNode(Id("file"), name="file"), missing=())
