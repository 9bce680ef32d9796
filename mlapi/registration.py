"""How a folder or an archive becomes a version of a module.

Whatever the content came in, it is unpacked by our own rule, its manifest is read, and it is packed again in the
one canonical way, whose SHA-256 identifies it.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlapi import archives
from mlapi.models.errors import FieldError, Invalid, TooLarge
from mlapi.schemas import manifests
from mlapi.storage import Blob, BlobStore
from mlapi.uploads import read_chunks


@dataclass(frozen=True)
class Content:
    """A module's content, kept: what its manifest says, and the blob of its canonical archive."""

    manifest: manifests.Manifest
    blob: Blob


def keep_folder(store: BlobStore, folder: Path) -> Content:
    """Read the manifest of a module's folder and keep its canonical archive.

    Raises `Invalid` with everything that is wrong with the manifest or the files.
    """
    with tempfile.TemporaryFile() as packed:
        try:
            archives.pack(folder, packed)
            packed.seek(0)
            with (
                _folder() as unpacked
            ):  # The manifest is read from what is kept, not from what lies beside it.
                archives.unpack(packed, unpacked)
                manifest = manifests.read(unpacked)
        except archives.BadArchive as error:
            raise Invalid.field("archive", str(error)) from None
        except manifests.BadManifest as error:
            raise Invalid(
                FieldError("body", f"manifest.{name}".rstrip("."), text) for name, text in error.errors
            ) from None
        packed.seek(0)
        return Content(manifest, store.put(read_chunks(packed)))


def keep_archive(store: BlobStore, archive: BinaryIO) -> Content:
    """Unpack an archive and keep its content, as `keep_folder` does."""
    with _folder() as folder:
        try:
            archives.unpack(archive, folder)
        except archives.BadArchive as error:
            raise Invalid.field("archive", str(error)) from None
        return keep_folder(store, folder)


class Spool:
    """A temporary file that an uploaded archive goes to, up to a limit of bytes."""

    def __init__(self, limit: int) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - `close` is called by `__exit__`
        self.limit = limit

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.file.close()

    def put(self, chunks: Iterable[bytes]) -> Blob:
        """Take the chunks; raises `TooLarge` beyond the limit."""
        for chunk in chunks:
            self.file.write(chunk)
            if self.file.tell() > self.limit:
                raise TooLarge(f"A module's archive has at most {self.limit} bytes.")
        size = self.file.tell()
        self.file.seek(0)
        return Blob("", size)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mlapi-module-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
