"""The form that registers a module version."""

import colander

from mlapi.schemas.types import Schema, Text


class ModuleForm(Schema):
    """The text fields of a registration; the model validates the name."""

    name = colander.SchemaNode(Text(), missing="")
