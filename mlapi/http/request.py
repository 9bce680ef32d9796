"""The request: Pyramid's, with the services of this application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyramid.decorator import reify
from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.request import Request as PyramidRequest

from mlapi.database import ACTOR, end

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    import sqlalchemy as sa
    from sqlalchemy.orm import Session
    from transaction import TransactionManager

    from mlapi.database import Database, Reader
    from mlapi.http.forms import FormFile
    from mlapi.http.slow import SlowWork
    from mlapi.security import Identity, Passwords, Tokens
    from mlapi.settings import Settings
    from mlapi.storage import BlobStore


class Validated(dict[str, Any]):
    """The validated parts of a request: `body`, `query`, `headers`, `form` and `files`."""

    @property
    def files(self) -> list[FormFile[Any]]:
        """The files of the form."""
        files: list[FormFile[Any]] = self["files"]
        return files


class Request(PyramidRequest):
    """A request of this application.

    `reader` is the connection or session for reading. `db` is the session for writing; pyramid_tm commits its
    transaction unless the response is an error.
    """

    if TYPE_CHECKING:
        identity: Identity | None
        tm: TransactionManager
        method: str
        headers: Mapping[str, str]
        content_type: str
        content_length: int | None

    @reify
    def validated(self) -> Validated:
        """The validated parts of the request."""
        return Validated()

    @reify
    def settings(self) -> Settings:
        """The settings of the application."""
        settings: Settings = self.registry.mlapi
        return settings

    @reify
    def store(self) -> BlobStore:
        """The store of the contents of files and modules."""
        store: BlobStore = self.registry.store
        return store

    @reify
    def tokens(self) -> Tokens:
        """The codec of tokens."""
        tokens: Tokens = self.registry.tokens
        return tokens

    @reify
    def passwords(self) -> Passwords:
        """The hasher of passwords."""
        passwords: Passwords = self.registry.passwords
        return passwords

    def slow_work(self) -> AbstractContextManager[None]:
        """A block of slow work, such as hashing a password; raises `Busy` if too many threads do slow work.

        The transaction should be paused before, so that the block holds no lock.
        """
        slow_work: SlowWork = self.registry.slow_work
        return slow_work.slot()

    @reify
    def db(self) -> Session:
        """The session for writing, joined to the request's transaction."""
        database: Database = self.registry.database
        return database.writing(info={"tm": self.tm, ACTOR: self._actor})

    def _actor(self) -> str | None:
        """The name of the caller in events."""
        return None if self.identity is None else self.identity.actor

    @reify
    def reader(self) -> Reader:
        """For GET and HEAD, a read-only connection, closed at the end of the request; else `db`."""
        if "tm.active" in self.environ:
            session: Session = self.db
            return session
        connection = self.reading()
        self.add_finished_callback(lambda _request: end(connection))
        return connection

    def reading(self) -> sa.Connection:
        """A new read-only connection, for a request of any method that must not wait for writers."""
        database: Database = self.registry.database
        return database.reading()

    @reify
    def root_url(self) -> str:
        """The URL of the root of the application."""
        return str(self.application_url)

    def require_identity(self) -> Identity:
        """The caller; raises 401 for a request without authentication."""
        identity = self.identity
        if identity is None:
            raise HTTPUnauthorized()
        return identity

    def settle(self) -> None:
        """Commit the request's transaction and begin a new one, for a request that is long or that waits."""
        self.tm.commit()
        self.tm.begin()

    def pause_transaction(self) -> None:
        """Roll back the request's transaction and begin a new one, which takes no lock before its first use.

        For slow operations, such as receiving a large body or hashing a password: SQLite has one writer at a time.
        """
        self.tm.abort()
        self.tm.begin()
