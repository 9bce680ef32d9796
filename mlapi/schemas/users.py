"""Request bodies of users."""

import colander
from pyramid.threadlocal import get_current_request

from mlapi.errors import Invalid
from mlapi.models.base import check_slug
from mlapi.models.users import Role
from mlapi.schemas.types import Schema, Text


def is_slug(node: colander.SchemaNode, value: str) -> None:
    """Validate the name of a user."""
    try:
        check_slug(value)
    except Invalid as invalid:
        raise colander.Invalid(node, invalid.errors[0].description) from None


def is_long_enough(node: colander.SchemaNode, value: str) -> None:
    """Validate the length of a new password, according to the settings."""
    try:
        get_current_request().passwords.check(value)
    except Invalid as invalid:
        raise colander.Invalid(node, invalid.errors[0].description) from None


class NewUser(Schema):
    """A new user."""

    name = colander.SchemaNode(Text(), validator=is_slug)
    password = colander.SchemaNode(Text(), validator=is_long_enough)
    role = colander.SchemaNode(Text(), missing=Role.USER, validator=colander.OneOf(list(Role)))
