"""The logs of ended attempts move from the database to the store, so that the database does not grow with them."""

import logging

from mlapi.database import Database
from mlapi.models import logs
from mlapi.storage import BlobStore, MissingBlob

log = logging.getLogger(__name__)

AGE = 600.0
"""Seconds after the end of an attempt after which its log becomes a blob."""

BATCH = 100
"""Maximum number of logs that are listed at once."""


def archive_logs(database: Database, store: BlobStore, age: float = AGE) -> int:
    """Store the logs of attempts that ended `age` seconds ago as blobs; returns their number.

    Several schedulers may do the same at the same time. A log that cannot be stored stays in the database.
    """
    count = failures = last = 0
    failure: Exception | None = None
    while True:
        with database.reading() as db:
            found = logs.settled(db, age, last, BATCH)
        for last, size in found:
            try:
                count += _archive(database, store, last, size)
            except Exception as error:  # noqa: BLE001 - the others may be stored, as on a disk with little room
                failures, failure = failures + 1, error
        if len(found) < BATCH:
            break
    if failure is not None:
        log.error("%d logs of attempts cannot be stored. They are tried again.", failures, exc_info=failure)
    return count


def _archive(database: Database, store: BlobStore, attempt_id: int, size: int) -> bool:
    """Store a log; returns False if its run was deleted in the meantime.

    The blob is stored before the transaction that refers to it, like that of a file.
    """
    try:
        blob = store.put(logs.chunks(database.reading, store, attempt_id, 0, size))
    except MissingBlob:
        return False
    with database.writing.begin() as session:
        logs.replace(session, attempt_id, blob.sha256)
    return True
