"""Request headers."""

import colander

from mlapi.schemas.types import Schema, Text


def _printable(node: colander.SchemaNode, value: str) -> None:
    if not (value.isascii() and value.isprintable() and 1 <= len(value) <= 200):
        raise colander.Invalid(node, "Must be 1 to 200 printable ASCII characters.")


class Idempotency(Schema):
    """The header with which a request can be repeated safely."""

    key = colander.SchemaNode(Text(), name="Idempotency-Key", missing=None, validator=_printable)
