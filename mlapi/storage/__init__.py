"""Storage of the bytes of files, modules and outputs: blobs, identified by the SHA-256 of their content.

A blob is stored before the row that names it is committed, and deleted after the last such row. A failure in between
leaves a blob that no row names. The sweep deletes it after a grace period.
"""

from pathlib import Path

from mlapi.storage.base import CHUNK, Blob, BlobStore, MissingBlob, StoredBlob, Stream, SweepResult
from mlapi.storage.local import LocalStore

__all__ = ["CHUNK", "Blob", "BlobStore", "MissingBlob", "StoredBlob", "Stream", "SweepResult", "open_store"]


def open_store(media_dir: Path) -> BlobStore:
    """The store in a folder of this machine."""
    return LocalStore(media_dir)
