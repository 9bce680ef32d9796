"""Authentication: the endpoints that issue tokens."""

from mlapi.resources.tree import Node


class Refresh(Node):
    """Exchange of a refresh token for new tokens."""

    public = True


class Token(Node):
    """Exchange of a name and a password for tokens."""

    kind = "token"
    public = True
    children = {"refresh": Refresh}


class Auth(Node):
    """Authentication."""

    children = {"token": Token}
