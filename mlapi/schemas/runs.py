"""Request bodies of runs."""

import colander

from mlapi.schemas.links import Id
from mlapi.schemas.types import List, Schema

FILES = 1000
"""Maximum number of files of a run."""


class NewRun(Schema):
    """A new run, over files in this order."""

    files = colander.SchemaNode(List(FILES), colander.SchemaNode(Id("file"), name="file"), missing=())
