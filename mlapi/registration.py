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
from mlapi.errors import FieldError, Invalid, TooLarge
from mlapi.http.bodies import read_chunks
from mlapi.schemas import manifests
from mlapi.storage import Blob, BlobStore


@dataclass(frozen=True)
class Content:
    """A module's content, kept: what its manifest says, and the blob of its canonical archive."""

    manifest: manifests.Manifest
    blob: Blob


class Intake:
    """Keeps modules' contents in a store; archives are unpacked in the scratch folder on the way."""

    def __init__(self, store: BlobStore, scratch: Path) -> None:
        self._store, self._scratch = store, scratch
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep_folder(self, folder: Path) -> Content:
        """Read the manifest of a module's folder and keep its canonical archive.

        Raises `Invalid` with everything that is wrong with the manifest or the files.
        """
        with self.temporary_file() as packed, self._temporary_folder() as unpacked:
            try:
                archives.pack(folder, packed)
                # The manifest is read from what is kept, not from what lies beside it.
                archives.unpack(packed, unpacked)
                manifest = manifests.read(unpacked)
            except archives.BadArchive as error:
                raise Invalid.field("archive", str(error)) from None
            except manifests.BadManifest as error:
                raise Invalid(_of_manifest(error)) from None
            packed.seek(0)
            return Content(manifest, self._store.put(read_chunks(packed)))

    def keep_archive(self, archive: BinaryIO) -> Content:
        """Unpack an archive and keep its content, as `keep_folder` does."""
        with self._temporary_folder() as folder:
            try:
                archives.unpack(archive, folder)
            except archives.BadArchive as error:
                raise Invalid.field("archive", str(error)) from None
            return self.keep_folder(folder)

    def temporary_file(self) -> BinaryIO:
        """A file that is gone when it is closed."""
        return tempfile.TemporaryFile(dir=self._scratch)

    @contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="module-", dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _of_manifest(bad: manifests.BadManifest) -> Iterator[FieldError]:
    for name, description in bad.errors:
        yield FieldError(f"manifest.{name}".rstrip("."), description)


def spool(file: BinaryIO, limit: int, chunks: Iterable[bytes]) -> Blob:
    """Write an uploaded archive to a file; raises `TooLarge` beyond `limit` bytes."""
    size = 0
    for chunk in chunks:
        size += file.write(chunk)
        if size > limit:
            raise TooLarge(f"A module's archive has at most {limit} bytes.")
    return Blob("", size)
