"""Request bodies of authentication."""

import colander

from mlapi.schemas.types import Schema, Text


class Credentials(Schema):
    """A name and a password."""

    name = colander.SchemaNode(Text(), validator=colander.Length(1, 255))
    password = colander.SchemaNode(Text(), validator=colander.Length(1, 256))


class RefreshToken(Schema):
    """A refresh token."""

    refresh_token = colander.SchemaNode(Text(), validator=colander.Length(1, 4096))
