"""The form that registers a module."""

import colander

from mlapi.schemas.types import Schema, Text


class ModuleForm(Schema):
    """The fields of a registration; the rules of modules say which names there can be."""

    name = colander.SchemaNode(Text(), missing="")
