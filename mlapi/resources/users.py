"""Users."""

import datetime
from typing import TypedDict

import sqlalchemy as sa
from pyramid.authorization import Allow

from mlapi.models import User
from mlapi.models.base import SLUG
from mlapi.models.users import Role
from mlapi.resources.fields import Field, Fields, Filter, Row
from mlapi.resources.files import Files
from mlapi.resources.items import USERS_READ, Collection, Condition, Item
from mlapi.resources.pipelines import Pipelines
from mlapi.resources.tree import Access, Linker, Url
from mlapi.security import CALLER, Identity, Permission, UserIdentity

users = User.__table__.c


class UserDocument(TypedDict):
    """A user."""

    name: str
    url: Url
    role: str
    created: datetime.datetime
    files: Url
    pipelines: Url


class UserItem(Item[UserDocument, UserDocument]):
    """A user, with full access to all resources below its URL."""

    key = "user"
    children = {"files": Files, "pipelines": Pipelines}
    fields = Fields(
        Field(users.id, shown=False, sort=True),
        Field(users.name),
        Field(users.role, filter=Filter.LISTS, choices=Role),
        Field(users.created),
    )
    source = User.__table__
    by = users.name

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """Administrators see all users, other users only themselves."""
        if isinstance(identity, UserIdentity):
            return sa.true() if identity.is_admin else users.id == CALLER
        return sa.false()

    @property
    def __acl__(self) -> list[Access]:
        """The user may read and write."""
        return [(Allow, f"user:{self.value}", (Permission.READ, Permission.WRITE))]

    @property
    def caller(self) -> UserIdentity | None:
        """The caller's identity if this user is the caller, else None."""
        identity = self.request.identity
        return identity if isinstance(identity, UserIdentity) and identity.name == self.value else None

    @property
    def id(self) -> int:
        """The user's id; that of the caller needs no query."""
        return self.caller.id if self.caller else super().id

    def load(self) -> None:
        """Raise KeyError unless this user exists and the caller may see it."""
        if not self.caller:
            super().load()

    @classmethod
    def describe(cls, row: Row, link: Linker) -> UserDocument:
        """A user, with links to the user's files and pipelines."""
        url = link("user", user=row.name)
        return {
            "name": row.name,
            "url": url,
            "role": row.role,
            "created": row.created,
            "files": f"{url}/files",
            "pipelines": f"{url}/pipelines",
        }


class Users(Collection[UserItem]):
    """Users. Non-administrators see only themselves."""

    kind = "users"
    item = UserItem
    __acl__ = USERS_READ

    def read_key(self, name: str) -> str:
        """The name of a user; raises KeyError for a name that no user can have."""
        if not SLUG.fullmatch(name):
            raise KeyError(name)
        return name
