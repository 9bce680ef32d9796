"""Authentication and authorization: identities, tokens, passwords and permissions.

Users and runners send a bearer token, signed with `pyramid_jwt`; that of a runner is valid for a single attempt. The
user is loaded for every request, because a token can outlive its user. The ACLs of the tree grant permissions.
"""

from __future__ import annotations

import enum
import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import argon2
import sqlalchemy as sa
from pyramid.authorization import ACLHelper, Authenticated, Everyone
from pyramid.config import Configurator
from pyramid.interfaces import ISecurityPolicy
from pyramid.request import RequestLocalCache
from pyramid.security import PermitsResult
from pyramid_jwt import JWTAuthenticationPolicy
from zope.interface import implementer

from mlapi.errors import Invalid
from mlapi.models import User
from mlapi.models.users import Role
from mlapi.prepared import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from mlapi.database import Reader
    from mlapi.settings import Settings

ALGORITHM = "HS256"

LEEWAY = 5
"""Seconds for which a token is accepted after it has expired."""

CLOCK_LEEWAY = 60
"""Seconds by which the clock of a machine that creates tokens, such as a worker, may be ahead of the verifier's."""

REMEMBERED = 1024
"""Maximum number of verified tokens in the cache of a process."""


class Permission(enum.StrEnum):
    """A permission that an ACL can grant on a resource."""

    READ = "read"
    """Read it, and list its items."""
    WRITE = "write"
    """Change or delete it, and create items in it."""
    REGISTER = "register"
    """Register and remove modules."""
    REPORT = "report"
    """Act as the runner of an attempt."""


class Use(enum.StrEnum):
    """The purpose of a token: its claim ``typ``. A token is valid for one purpose only."""

    ACCESS = "access"
    REFRESH = "refresh"
    JOB = "job"


class Request(Protocol):
    """The parts of a request that authentication uses; `http.request` has the whole."""

    headers: Mapping[str, str]
    reader: Reader
    passwords: Passwords

    def slow_work(self) -> AbstractContextManager[None]:
        """A block of slow work. Raises `Busy`."""

    def reading(self) -> sa.Connection:
        """A new read-only connection."""


CALLER: sa.BindParameter[int] = sa.bindparam("caller", type_=sa.BigInteger)
"""The id of the caller, in read rules."""


@dataclass(frozen=True)
class UserIdentity:
    """An authenticated user."""

    id: int
    name: str
    role: str

    @property
    def is_admin(self) -> bool:
        """Whether the user is an administrator."""
        return self.role == Role.ADMIN

    @functools.cached_property
    def principals(self) -> list[str]:
        """The principals of this identity in ACLs."""
        return [Everyone, Authenticated, f"user:{self.name}", f"role:{self.role}"]

    @property
    def parameters(self) -> dict[str, int]:
        """The value of `CALLER`."""
        return {"caller": self.id}

    @property
    def actor(self) -> str:
        """The name of this identity in events."""
        return f"user:{self.name}"


@dataclass(frozen=True)
class RunnerIdentity:
    """The authenticated runner of an attempt, without access to anything else."""

    attempt: int
    role = "runner"

    @property
    def name(self) -> str:
        """The name in logs."""
        return f"attempt {self.attempt}"

    @functools.cached_property
    def principals(self) -> list[str]:
        """The principals of this identity in ACLs; without `Authenticated`, which stands for all users."""
        return [Everyone, f"attempt:{self.attempt}"]

    @property
    def parameters(self) -> dict[str, int]:
        """The value of `CALLER`."""
        return {"caller": self.attempt}

    @property
    def actor(self) -> str:
        """The name of this identity in events."""
        return f"attempt:{self.attempt}"


Identity = UserIdentity | RunnerIdentity


class Tokens(JWTAuthenticationPolicy):
    """The codec of tokens: pyramid_jwt's, with stricter validation."""

    def __init__(self, key: str) -> None:
        super().__init__(key, algorithm=ALGORITHM, leeway=CLOCK_LEEWAY)
        self._verified: dict[str, dict[str, Any]] = {}

    def make(self, subject: int, use: Use, lifetime: float) -> str:
        """A token for the user or attempt with the id `subject`, valid for `lifetime` seconds."""
        return str(
            self.create_token(str(subject), expiration=lifetime, typ=use)
        )  # PyJWT does not accept an integer `sub`.

    def read(self, request: Request, token: str, *uses: Use) -> tuple[int, Use] | None:
        """The subject and use of a token that is valid for one of these uses, or None."""
        claims = self._claims(request, token)
        subject = claims.get("sub")
        if not (claims.keys() >= {"sub", "exp", "iat", "typ"} and claims["typ"] in uses):
            return None
        if not (isinstance(subject, str) and subject.isascii() and subject.isdecimal() and len(subject) < 19):
            return None
        return int(subject), Use(claims["typ"])

    def _claims(self, request: Request, token: str) -> dict[str, Any]:
        """The claims of a token with a valid signature that has not expired, else an empty dict.

        Valid signatures are cached: their verification takes half of the time of a request. The expiry is checked
        every time.
        """
        claims = self._verified.get(token)
        if claims is None:
            claims = self.jwt_decode(request, token) if 0 < len(token) < 4096 else {}
            if not isinstance(claims.get("exp"), int):
                return {}
            if len(self._verified) >= REMEMBERED:
                self._verified.clear()
            self._verified[token] = claims
        return claims if claims["exp"] > time.time() - LEEWAY else {}


_users = User.__table__.c
_USER = sa.select(_users.id, _users.name, _users.role).where(_users.id == sa.bindparam("id"))


@implementer(ISecurityPolicy)
class SecurityPolicy:
    """Identifies the caller by the bearer token; authorizes by the ACLs of the tree."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._acl = ACLHelper()
        self._identities = RequestLocalCache(self._load_identity)

    def _load_identity(self, request: Request) -> Identity | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        claims = self._tokens.read(request, token.strip(), Use.ACCESS, Use.JOB)
        if claims is None:
            return None
        subject, use = claims
        if use is Use.JOB:
            return RunnerIdentity(subject)
        rows = fetch(request.reader, _USER, {"id": subject})
        return UserIdentity(*rows[0]) if rows else None

    def identity(self, request: Request) -> Identity | None:
        """The caller, or None."""
        identity: Identity | None = self._identities.get_or_create(request)
        return identity

    def authenticated_userid(self, request: Request) -> str | None:
        """The name of the caller, or None."""
        identity = self.identity(request)
        return identity.name if identity else None

    def permits(self, request: Request, context: object, permission: str) -> PermitsResult:
        """Whether the ACLs of `context` and its ancestors grant a permission to the caller."""
        identity = self.identity(request)
        return self._acl.permits(context, identity.principals if identity else [Everyone], permission)

    def remember(self, request: Request, userid: str, **kw: object) -> list[tuple[str, str]]:  # noqa: ARG002 - Pyramid's interface
        """No headers: clients store their tokens."""
        return []

    def forget(self, request: Request, **kw: object) -> list[tuple[str, str]]:  # noqa: ARG002 - Pyramid's interface
        """The headers of a 401 response."""
        return [("WWW-Authenticate", 'Bearer realm="mlapi"')]


class Passwords:
    """argon2id hashes of passwords, with the cost parameters of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._minimum = settings.password_length
        self._hasher = argon2.PasswordHasher(settings.password_rounds, settings.password_memory, 1)

    def check(self, password: str) -> None:
        """Raise `Invalid` if a new password is too short or too long."""
        if not self._minimum <= len(password) <= 256:
            raise Invalid.field("password", f"Must have {self._minimum} to 256 characters.")

    def hash(self, password: str) -> str:
        """The hash of a new password. Raises `Invalid` if it is too short or too long."""
        self.check(password)
        return self._hasher.hash(password)

    @functools.cached_property
    def _placeholder(self) -> str:
        return self._hasher.hash("the password of no user")

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether a password has this hash; False without a hash, in the same time."""
        try:
            self._hasher.verify(password_hash or self._placeholder, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        return password_hash is not None


def authenticate(request: Request, name: str, password: str) -> int | None:
    """The id of the user with this name and password, or None. Raises `Busy`."""
    with request.slow_work():
        with request.reading() as db:  # Closed before hashing, which takes 0.1 s.
            row = db.execute(sa.select(User.id, User.password_hash).where(User.name == name)).first()
        return row.id if request.passwords.verify(row and row.password_hash, password) and row else None


def user_exists(request: Request, user: int) -> bool:
    """Whether a user with this id exists."""
    with request.reading() as db:
        return bool(fetch(db, _USER, {"id": user}))


def includeme(config: Configurator) -> None:
    """Set the security policy, and register tokens and passwords."""
    settings: Settings = config.registry.mlapi
    config.registry.tokens = Tokens(settings.secret_key)
    config.registry.passwords = Passwords(settings)
    config.set_security_policy(SecurityPolicy(config.registry.tokens))
