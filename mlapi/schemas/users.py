"""Request bodies of users."""

import colander

from mlapi.models.users import Role
from mlapi.schemas.auth import Credentials
from mlapi.schemas.types import Text


class NewUser(Credentials):
    """A new user."""

    role = colander.SchemaNode(Text(), missing=Role.USER, validator=colander.OneOf(list(Role)))
