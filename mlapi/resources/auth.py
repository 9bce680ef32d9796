"""Where tokens are had."""

from mlapi.resources.base import Node


class Refresh(Node):
    """Where a refresh token is changed for new tokens."""


class Token(Node):
    """Where a name and a password are changed for tokens."""

    children = {"refresh": Refresh}


class Auth(Node):
    """What one does before one is known."""

    children = {"token": Token}
