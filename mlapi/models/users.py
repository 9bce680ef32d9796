"""Users: who may log in, under a name that never changes, in a role."""

import enum
import re
from typing import Self

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict, Invalid
from mlapi.models.base import Numbered

SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
"""Names that stand in URLs."""


class Role(enum.StrEnum):
    """What a user is to the service."""

    ADMIN = "admin"
    """Sees and may change everything, registers modules."""
    USER = "user"
    """Sees and may change what is his own, reads modules."""


class User(Numbered):
    """A person or program with a name and a password."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str] = mapped_column(default=Role.USER)

    @classmethod
    def create(cls, db: Session, name: str, password_hash: str, role: str = Role.USER) -> Self:
        """Add a user; raises `Invalid` for a name that is no slug, `Conflict` for one that is taken."""
        if not SLUG.fullmatch(name):
            raise Invalid.field("name", "Must be a slug: a-z, 0-9 and . _ - inside, at most 63 characters.")
        user = cls(name=name, password_hash=password_hash, role=role)
        db.add(user)
        try:
            db.flush()
        except IntegrityError:
            raise Conflict(f"There is a user named {name} already.") from None
        return user
