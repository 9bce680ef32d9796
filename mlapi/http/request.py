"""The request: what Pyramid's has, and what the rooms of this application read of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyramid.decorator import reify
from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.request import Request as PyramidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa
    from sqlalchemy.orm import Session
    from transaction import TransactionManager

    from mlapi.database import Database, Reader
    from mlapi.http.forms import FormFile
    from mlapi.security import Identity, Passwords, Tokens
    from mlapi.settings import Settings
    from mlapi.storage import BlobStore


class Validated(dict[str, Any]):
    """The parts of a request after the check by its service: `body`, `query`, `headers`, `form` and its `files`."""

    @property
    def files(self) -> list[FormFile[Any]]:
        """The files of the form."""
        files: list[FormFile[Any]] = self["files"]
        return files


class Request(PyramidRequest):
    """A request of this application.

    `reader` reads. `db` is the session that writes, in the request's one transaction, which pyramid_tm commits unless
    the answer is an error.
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
        """The parts of the request that its service has checked."""
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
        """The maker and reader of tokens."""
        tokens: Tokens = self.registry.tokens
        return tokens

    @reify
    def passwords(self) -> Passwords:
        """The hasher of passwords."""
        passwords: Passwords = self.registry.passwords
        return passwords

    @reify
    def db(self) -> Session:
        """The session that writes, joined to the request's transaction."""
        database: Database = self.registry.database
        return database.writing(info={"tm": self.tm})

    @reify
    def reader(self) -> Reader:
        """The session of a request that writes; for GET and HEAD a connection, closed at the request's end."""
        if "tm.active" in self.environ:
            session: Session = self.db
            return session
        database: Database = self.registry.database
        connection: sa.Connection = database.reading()
        self.add_finished_callback(lambda _request: connection.close())
        return connection

    @reify
    def root_url(self) -> str:
        """The URL of the application's root."""
        return str(self.application_url)

    def require_identity(self) -> Identity:
        """The caller; raises 401 for a request without one."""
        identity = self.identity
        if identity is None:
            raise HTTPUnauthorized()
        return identity

    def pause_transaction(self) -> None:
        """End the request's transaction as it stands, to begin a new one at its next use.

        For what takes long, as receiving a large body or hashing a password: SQLite has one writer at a time.
        """
        self.tm.abort()
        self.tm.begin()
