"""Which blobs the tables name: those of files, of modules, and of outputs that wait for their report."""

from collections.abc import Collection

import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models.attempts import Upload
from mlapi.models.files import File
from mlapi.models.modules import ModuleVersion


def referenced(database: Database, digests: Collection[str]) -> set[str]:
    """Those of the SHA-256s that some row names."""
    columns = (File.sha256, ModuleVersion.digest, Upload.sha256)
    named = sa.union(*(sa.select(column).where(column.in_(digests)) for column in columns))
    with database.reading() as db:
        return set(db.scalars(named))
