"""The readiness of the service: whether each of its parts can do its work."""

import logging
from typing import TypedDict

import sqlalchemy as sa

from mlapi import revision
from mlapi.database import Database
from mlapi.errors import StorageFull
from mlapi.models import workers
from mlapi.storage import BlobStore

log = logging.getLogger(__name__)

ROOM = 64 * 1024 * 1024
"""Bytes that a store needs to be ready."""

READY = "ready"
"""The state of a part that can do its work; every other state is a sentence."""

NO_ROOM, UNKNOWN = "No room.", "Unknown."


class PartsDocument(TypedDict):
    """The state of each part of the service: `ready`, or what is wrong."""

    database: str
    schema: str
    scheduler: str
    store: str


def states(database: Database, store: BlobStore) -> PartsDocument:
    """The state of each part. No wait is longer than that of any other request for the database."""
    current = heard = False
    try:
        with database.reading() as db:
            current = revision.current(db) == revision.revisions()[0]
            heard = current and workers.heard(db)
        available = READY
    except sa.exc.SQLAlchemyError as error:
        log.warning("The database is not available: %s", error)
        available = "Not available."
    known = available == READY
    return {
        "database": available,
        "schema": READY if current else "Not at the newest revision." if known else UNKNOWN,
        "scheduler": READY if heard else workers.NOBODY if current else UNKNOWN,
        "store": _of_store(store),
    }


def _of_store(store: BlobStore) -> str:
    try:
        return READY if store.room() >= ROOM else NO_ROOM
    except StorageFull:
        return NO_ROOM
    except OSError as error:
        log.warning("The store is not writable: %s", error)
        return "Not writable."
