"""Intake of module content: a folder or an archive becomes a stored canonical archive and its manifest.

Every archive is unpacked by the same rules, its manifest is read, and it is packed again as the canonical tar, whose
SHA-256 identifies the content.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mlapi import scratch as folders
from mlapi.archives import manifests
from mlapi.archives.canonical import pack, unpack
from mlapi.archives.limits import BadArchive
from mlapi.errors import FieldError, Invalid, TooLarge
from mlapi.models.manifests import Manifest
from mlapi.storage import CHUNK, Blob, BlobStore
from mlapi.storage.local import detect_full


@dataclass(frozen=True)
class Content:
    """The stored content of a module: its manifest, and the blob of its canonical archive."""

    manifest: Manifest
    blob: Blob


class Intake:
    """The intake of module content into a store. Archives are unpacked in the scratch folder."""

    def __init__(self, store: BlobStore, scratch: Path) -> None:
        self._store, self._scratch = store, scratch
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)

    def store_folder(self, folder: Path) -> Content:
        """Read the manifest of a module folder and store its canonical archive.

        Raises `Invalid` with every error in the manifest or the files.
        """
        with self.temporary_file() as packed, self._temporary_folder() as unpacked:
            try:
                pack(folder, packed)
                # The manifest is read from the packed files, not from excluded ones beside them.
                unpack(packed, unpacked)
                manifest = manifests.read(unpacked)
            except BadArchive as error:
                raise Invalid.field("archive", str(error)) from None
            except manifests.BadManifest as error:
                raise Invalid(_field_errors(error)) from None
            packed.seek(0)
            return Content(manifest, self._store.put(iter(partial(packed.read, CHUNK), b"")))

    def store_archive(self, archive: BinaryIO) -> Content:
        """Unpack an archive and store its content as `store_folder` does."""
        with self._temporary_folder() as folder:
            try:
                unpack(archive, folder)
            except BadArchive as error:
                raise Invalid.field("archive", str(error)) from None
            return self.store_folder(folder)

    @contextmanager
    def temporary_file(self) -> Iterator[BinaryIO]:
        """Open a file that is deleted when it is closed. Raises `StorageFull` without space to write it."""
        with detect_full(), tempfile.TemporaryFile(dir=self._scratch) as file:
            yield file

    @contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        with detect_full():
            # Locked, so that a sweep can tell it from the folder of a process that was killed.
            folder, lock = folders.create(os.fspath(self._scratch), folders.MODULE)
            try:
                yield Path(folder)
            finally:
                folders.remove_tree(folder)
                os.close(lock)


def _field_errors(error: manifests.BadManifest) -> Iterator[FieldError]:
    for name, description in error.errors:
        yield FieldError(f"manifest.{name}".rstrip("."), description)


def write_archive(file: BinaryIO, limit: int, chunks: Iterable[bytes]) -> None:
    """Write an uploaded archive to a file. Raises `TooLarge` beyond `limit` bytes, `StorageFull` without space."""
    size = 0
    for chunk in chunks:
        with detect_full():
            size += file.write(chunk)
        if size > limit:
            raise TooLarge(f"The archive is larger than {limit} bytes.")
