"""Users, and under each of them what he owns."""

from typing import Any

from pyramid.authorization import Allow, Authenticated

from mlapi.models import User
from mlapi.models.base import SLUG
from mlapi.resources.base import Collection, Item, must_be_known
from mlapi.resources.files import Files
from mlapi.resources.pipelines import Pipelines
from mlapi.security import Permission

users = User.__table__.c


class UserItem(Item):
    """A user; he may do everything with what is under him."""

    key = "user"
    children = {"files": Files, "pipelines": Pipelines}
    columns = (users.id, users.name, users.role, users.created)
    source = User.__table__
    by = users.name

    @property
    def __acl__(self) -> list[Any]:
        return [(Allow, f"user:{self.value}", (Permission.READ, Permission.WRITE))]

    @property
    def is_caller(self) -> bool:
        """Whether this is the user who asks."""
        return bool(self.request.identity.name == self.value)

    @property
    def id(self) -> int:
        """The user's id; the caller's own needs no look into the database."""
        return int(self.request.identity.id) if self.is_caller else super().id

    def load(self) -> None:
        """Raise KeyError where there is no such user."""
        if not self.is_caller:
            super().load()

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A user, with links to his files and pipelines."""
        url = cls.link(request, user=row.name)
        return {
            "name": row.name,
            "url": url,
            "role": row.role,
            "created": row.created,
            "files": f"{url}/files",
            "pipelines": f"{url}/pipelines",
        }


class Users(Collection):
    """The users; for whoever is no admin, there is but himself."""

    __acl__ = [(Allow, Authenticated, Permission.READ)]
    item = UserItem
    order = users.id
    mine = users.id
    filters = {"role": lambda bound: users.role == bound}

    def scope(self) -> dict[str, Any]:
        """Admins see everybody, others themselves."""
        identity = self.request.identity
        return {} if identity.role == "admin" else {"caller": identity.id}

    def read_key(self, name: str) -> str:
        """The name of a user whom the caller may see."""
        identity = must_be_known(self.request)
        if not SLUG.fullmatch(name):
            raise KeyError(name)
        if identity.role != "admin" and (identity.role != "user" or identity.name != name):
            raise KeyError(name)
        return name
