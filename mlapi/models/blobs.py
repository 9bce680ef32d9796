"""References to blobs: those of files, of modules, of logs, and of uploads whose report is pending."""

from collections.abc import Collection

import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models.attempts import Attempt
from mlapi.models.files import File
from mlapi.models.modules import ModuleVersion
from mlapi.models.outputs import Upload


def referenced(database: Database, digests: Collection[str]) -> set[str]:
    """The subset of the SHA-256s that rows refer to."""
    columns = (File.sha256, ModuleVersion.digest, Attempt.log_sha256, Upload.sha256)
    query = sa.union(*(sa.select(column).where(column.in_(digests)) for column in columns))
    with database.reading() as db:
        return set(db.scalars(query))
