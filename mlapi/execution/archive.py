"""The logs of ended attempts move from the database to the store, so that the database does not grow with them."""

from mlapi.database import Database
from mlapi.models import logs
from mlapi.storage import BlobStore, MissingBlob

AGE = 600.0
"""Seconds after the end of an attempt after which its log becomes a blob."""

BATCH = 100
"""Maximum number of logs that are listed at once."""


def archive_logs(database: Database, store: BlobStore, age: float = AGE) -> int:
    """Store the logs of attempts that ended `age` seconds ago as blobs; returns their number.

    The blob is stored before the transaction that refers to it, like that of a file. Several schedulers may do the
    same at the same time.
    """
    count = last = 0
    while True:
        with database.reading() as db:
            found = logs.settled(db, age, last, BATCH)
        for attempt_id, size in found:
            last = attempt_id
            try:
                blob = store.put(logs.chunks(database.reading, store, attempt_id, 0, size))
            except MissingBlob:
                continue  # The run was deleted in the meantime.
            with database.writing.begin() as session:
                logs.replace(session, attempt_id, blob.sha256)
            count += 1
        if len(found) < BATCH:
            return count
