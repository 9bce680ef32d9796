"""Users: accounts with a unique, immutable name and a role."""

import enum

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict
from mlapi.models.base import Numbered, check_slug


class Role(enum.StrEnum):
    """The role of a user, which determines its permissions."""

    ADMIN = "admin"
    """Read and write access to everything, including the registration of modules."""
    USER = "user"
    """Read and write access to the user's own resources, read access to modules."""


class User(Numbered):
    """A person or program with a name and a password."""

    __tablename__ = "users"
    __table_args__ = (sa.Index(None, "role", "id"), {"sqlite_autoincrement": True})

    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str] = mapped_column(default=Role.USER)


def create(db: Session, name: str, password_hash: str, role: str = Role.USER) -> User:
    """Create a user. Raises `Invalid` for a name that is not a slug, `Conflict` for a name that is taken."""
    check_slug(name)
    user = User(name=name, password_hash=password_hash, role=role)
    db.add(user)
    try:
        db.flush()
    except IntegrityError:
        raise Conflict(f"The user name {name} is already taken.") from None
    return user
