"""Who makes a request, and what that one may do.

Users carry a bearer token that `pyramid_jwt` signs and reads; runners carry one that is good for a single
attempt. A user is looked up at each request, since a token outlives its user. What an identity may do is asked
of the ACLs in the tree.
"""

import enum
import functools
import time
from dataclasses import dataclass
from typing import Any

import argon2
import sqlalchemy as sa
from pyramid.authorization import ACLHelper, Authenticated, Everyone
from pyramid.interfaces import ISecurityPolicy
from pyramid.request import RequestLocalCache
from pyramid_jwt import JWTAuthenticationPolicy
from sqlalchemy.orm import Session
from zope.interface import implementer

from mlapi.errors import Invalid
from mlapi.models import User
from mlapi.settings import Settings

ALGORITHM = "HS256"

LEEWAY = 5
"""Seconds by which the clocks of those who make and read tokens may differ."""

REMEMBERED = 1024
"""Good tokens that a process remembers."""


class Permission(enum.StrEnum):
    """What one may be allowed to do with a resource."""

    READ = "read"
    """See it and what it lists."""
    WRITE = "write"
    """Create in it, change it, delete it."""
    REGISTER = "register"
    """Register and remove modules."""
    REPORT = "report"
    """Speak for the attempt that it is: only its runner does."""


class Use(enum.StrEnum):
    """What a token is good for: its claim ``typ``. None is taken for another."""

    ACCESS = "access"
    REFRESH = "refresh"
    JOB = "job"


@dataclass(frozen=True)
class Identity:
    """A user, as the database knows him now, or the runner of an attempt."""

    id: int
    name: str
    role: str

    @functools.cached_property
    def principals(self) -> list[str]:
        """What ACLs know this identity by; a runner is not `Authenticated`, only itself."""
        if self.role == Use.JOB:
            return [Everyone, f"attempt:{self.id}"]
        return [Everyone, Authenticated, f"user:{self.name}", f"role:{self.role}"]


class Tokens(JWTAuthenticationPolicy):
    """pyramid_jwt's maker and reader of tokens, stricter about what it takes."""

    def __init__(self, key: str) -> None:
        super().__init__(key, algorithm=ALGORITHM, leeway=LEEWAY)
        self._good: dict[str, dict[str, Any]] = {}

    def make(self, subject: int, use: Use, lifetime: float) -> str:
        """A token for the user or attempt of that number, good for `lifetime` seconds."""
        return str(self.create_token(str(subject), expiration=lifetime, typ=use))  # PyJWT takes no integer `sub`.

    def read(self, request: Any, token: str, *uses: Use) -> tuple[int, Use] | None:
        """Subject and use of a good token for one of these uses, or None."""
        claims = self._claims(request, token)
        subject = claims.get("sub")
        if not (claims.keys() >= {"sub", "exp", "iat", "typ"} and claims["typ"] in uses):
            return None
        if not (isinstance(subject, str) and subject.isascii() and subject.isdecimal() and len(subject) < 19):
            return None
        return int(subject), Use(claims["typ"])

    def _claims(self, request: Any, token: str) -> dict[str, Any]:
        """The claims of a token whose signature and times are good, or none.

        A signature that was good once stays so, and checking it again at each request would take half the time of
        one; the token's end is looked at each time.
        """
        claims = self._good.get(token)
        if claims is None:
            claims = self.jwt_decode(request, token) if 0 < len(token) < 4096 else {}
            if not isinstance(claims.get("exp"), int):
                return {}
            if len(self._good) >= REMEMBERED:
                self._good.clear()
            self._good[token] = claims
        return claims if claims["exp"] > time.time() - LEEWAY else {}


_users = User.__table__.c
_USER = sa.select(_users.id, _users.name, _users.role).where(_users.id == sa.bindparam("id"))


@implementer(ISecurityPolicy)
class SecurityPolicy:
    """Knows who asks by the bearer token, and asks the context's ACL what that one may do."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._acl = ACLHelper()
        self._identities = RequestLocalCache(self._load_identity)

    def _load_identity(self, request: Any) -> Identity | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        told = self._tokens.read(request, token.strip(), Use.ACCESS, Use.JOB)
        if told is None:
            return None
        subject, use = told
        if use is Use.JOB:
            return Identity(subject, f"attempt {subject}", Use.JOB)
        row = request.db.execute(_USER, {"id": subject}).first()
        return row and Identity(*row)

    def identity(self, request: Any) -> Identity | None:
        """Who makes the request, or None."""
        return self._identities.get_or_create(request)  # type: ignore[no-any-return]

    def authenticated_userid(self, request: Any) -> str | None:
        """The name of who makes the request, or None."""
        identity = self.identity(request)
        return identity.name if identity else None

    def permits(self, request: Any, context: Any, permission: str) -> Any:
        """Whether the ACLs from `context` up to the root allow it."""
        identity = self.identity(request)
        return self._acl.permits(context, identity.principals if identity else [Everyone], permission)

    def remember(self, request: Any, userid: str, **kw: Any) -> list[Any]:  # noqa: ARG002 - Pyramid's interface
        """Nothing: clients keep their tokens themselves."""
        return []

    def forget(self, request: Any, **kw: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - Pyramid's interface
        """The header of an answer to who has not said who he is."""
        return [("WWW-Authenticate", 'Bearer realm="mlapi"')]


class Passwords:
    """argon2id hashes of passwords, at the cost that the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._least = settings.password_length
        self._hasher = argon2.PasswordHasher(settings.password_rounds, settings.password_memory, 1)

    def hash(self, password: str) -> str:
        """The hash to keep of a new password; raises `Invalid` for one that is too short or too long."""
        if not self._least <= len(password) <= 256:
            raise Invalid.field("password", f"Must have {self._least} to 256 characters.")
        return self._hasher.hash(password)

    @functools.cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash("nobody's password")

    def fits(self, password_hash: str | None, password: str) -> bool:
        """Whether a password is the one of a hash; where there is none (None), it takes as long to say no."""
        try:
            self._hasher.verify(password_hash or self._nobodys, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        return password_hash is not None


def log_in(request: Any, name: str, password: str) -> int | None:
    """The id of the user with this name and password, or None."""
    db: Session = request.db
    row = db.execute(sa.select(User.id, User.password_hash).where(User.name == name)).first()
    request.pause_transaction()  # Hashing takes a tenth of a second, in which others write.
    return row.id if request.registry.passwords.fits(row and row.password_hash, password) and row else None


def user_exists(db: Session, user: int) -> bool:
    """Whether there is still a user of that id."""
    return db.execute(_USER, {"id": user}).first() is not None


def includeme(config: Any) -> None:
    """Set the security policy, and keep what makes tokens and hashes in the registry."""
    settings: Settings = config.registry.mlapi
    config.registry.tokens = Tokens(settings.secret_key)
    config.registry.passwords = Passwords(settings)
    config.set_security_policy(SecurityPolicy(config.registry.tokens))
