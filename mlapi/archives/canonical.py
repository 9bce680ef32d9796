"""Unpacking archives of module code, and packing folders so that equal files give equal bytes.

The archive formats are implemented here and not by `tarfile` and `zipfile`: both trust the headers (a PAX header is
read whole, whatever its size; a zip directory is kept whole, whatever its length), and both have had security holes
in their safe extraction. Only regular files are ever created, and every limit counts bytes that were actually read.
"""

import os
import stat
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

from mlapi.archives.limits import BLOCK, CHUNK, DEFAULT_LIMITS, BadArchive, Limits
from mlapi.archives.readers import members

EXCLUDED = frozenset({".git", "__pycache__"})
FILE_MODE, PROGRAM_MODE, FOLDER_MODE = 0o644, 0o755, 0o755


def unpack(source: BinaryIO, folder: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the files of a .tar, .tar.gz or .zip into `folder`, which must be empty or absent.

    A single top-level folder, as in the archives of a repository, is stripped. `source` is read from its beginning
    and must be seekable. Raises `BadArchive`, possibly after some files were written; an `OSError` means that this
    machine failed, not the archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty.")
    tree = _Tree(folder, _Contents(limits))
    for member in members(source, limits):
        if member.is_folder:
            tree.add_folder(member.name)
        else:
            tree.add_file(member.name, member.executable, member.chunks)
    tree.contents.finish()
    _strip(folder)


def pack(folder: Path, out: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the files of `folder` to `out` as the canonical tar: equal files give equal bytes.

    Its SHA-256 identifies the content, so the bytes are written here: those of `tarfile` have changed between
    versions of Python. Files are sorted by path. No owner, time or other trace of a machine is stored. `.git`,
    `__pycache__` and `*.pyc` are excluded.
    """
    contents = _Contents(limits)
    for path in sorted(_files(folder, contents)):
        _pack_file(folder, path, out, contents)
    contents.finish()
    out.write(bytes(2 * BLOCK))


@dataclass
class _Contents:
    """The files and folders found so far, checked against the rules and limits."""

    limits: Limits
    files: int = 0
    size: int = 0
    paths: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def add(self, name: str, is_folder: bool = False) -> str:
        """Add a file or folder and return its normalized path, or raise `BadArchive`."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if problem := self._name_problem(name, parts):
            raise BadArchive(f"{name[:80]!a}: {problem}")
        for end in range(1, len(parts) + 1):
            self._add_path("/".join(parts[:end]), is_folder or end < len(parts))
        self.files += not is_folder
        if self.files > self.limits.files or len(self.paths) > self.limits.members:
            raise BadArchive(f"The archive has more than {self.limits.files} files, or far more folders than files.")
        return "/".join(parts)

    def limited(self, path: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks of a file, or raise `BadArchive` beyond the limits of size."""
        size = 0
        for chunk in chunks:
            size += len(chunk)
            self.size += len(chunk)
            if size > self.limits.file_size:
                raise BadArchive(f"{path!a}: the file is larger than {self.limits.file_size} bytes.")
            if self.size > self.limits.total_size:
                raise BadArchive(f"The files are larger than {self.limits.total_size} bytes in total.")
            yield chunk

    def finish(self) -> None:
        """Raise `BadArchive` if there was no file."""
        if not self.files:
            raise BadArchive("The archive has no files.")

    def _name_problem(self, name: str, parts: list[str]) -> str | None:
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
            return "paths must be UTF-8 without control characters."
        if name.startswith("/") or "\\" in name or (name[1:2] == ":" and name[0].isalpha()):
            return "paths must be relative, with forward slashes."
        if ".." in parts or not parts:
            return "paths must lie within the archive."
        if len(name.encode()) > self.limits.path_length or len(parts) > self.limits.depth:
            return f"paths have at most {self.limits.path_length} bytes and {self.limits.depth} parts."
        return None

    def _add_path(self, path: str, is_folder: bool) -> None:
        key = unicodedata.normalize("NFC", path).casefold()
        known = self.paths.get(key)
        if known is None:
            self.paths[key] = (path, is_folder)
        elif known != (path, True) or not is_folder:
            raise BadArchive(f"{path!a}: conflicts with {known[0]!a}; paths must differ in more than case.")


class _Tree:
    """The folder an archive is unpacked into. Nothing is written outside it."""

    def __init__(self, folder: Path, contents: _Contents) -> None:
        self.folder, self.contents = folder, contents
        self.folders = {folder}

    def add_folder(self, name: str) -> None:
        """Record a folder. It is created with its first file."""
        if name not in (".", "./"):
            self.contents.add(name, is_folder=True)

    def add_file(self, name: str, executable: bool, chunks: Iterable[bytes]) -> None:
        """Write a new file."""
        path = self.folder / self.contents.add(name)
        self._create_folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.writelines(self.contents.limited(name, chunks))
            os.fchmod(file.fileno(), PROGRAM_MODE if executable else FILE_MODE)

    def _create_folder(self, folder: Path) -> None:
        if folder not in self.folders:
            self._create_folder(folder.parent)
            folder.mkdir()
            folder.chmod(FOLDER_MODE)
            self.folders.add(folder)


def _strip(folder: Path) -> None:
    """Move the contents of a single top-level folder up into `folder`."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        source = entries[0].rename(folder / "\x01")  # no path in an archive has a control character
        for path in list(source.iterdir()):
            path.rename(folder / path.name)
        source.rmdir()


def _files(folder: Path, contents: _Contents) -> Iterator[str]:
    """Yield the paths of the regular files of `folder`; raise `BadArchive` for any other kind of file."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.name in EXCLUDED or entry.name.endswith(".pyc"):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(contents.add(path, is_folder=True) + "/")
                elif entry.is_file(follow_symlinks=False):
                    yield contents.add(path)
                else:
                    raise BadArchive(f"{path!a}: links and special files are not supported.")


def _pack_file(folder: Path, path: str, out: BinaryIO, contents: _Contents) -> None:
    with open(os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        status = os.fstat(file.fileno())
        size, written = status.st_size, 0
        out.write(_headers(path, size, PROGRAM_MODE if status.st_mode & stat.S_IXUSR else FILE_MODE))
        for chunk in contents.limited(path, iter(partial(file.read, CHUNK), b"")):
            written += len(chunk)
            out.write(chunk)
    if written != size:
        raise BadArchive(f"{path!a}: the file changed while it was packed.")
    out.write(bytes(-size % BLOCK))


def _headers(path: str, size: int, mode: int) -> bytes:
    """Return the ustar header of a file, after a PAX header if the path needs one."""
    name = path.encode()
    if path.isascii() and len(name) <= 100:
        return _header(name, size, mode)
    record = b" path=%b\n" % name
    length = next(n for n in count(len(record)) if n == len(record) + len(str(n)))
    data = b"%d%b" % (length, record)
    extended = _header(b"././@PaxHeader", len(data), FILE_MODE, kind=b"x") + data + bytes(-len(data) % BLOCK)
    return extended + _header(path.encode("ascii", "replace")[:100], size, mode)


def _header(name: bytes, size: int, mode: int, kind: bytes = b"0") -> bytes:
    """Return a POSIX ustar block: name, mode, owner, group, size, time, checksum, kind, magic."""
    numbers = (b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size, b"%011o\0" % 0)
    block = struct.pack("100s8s8s8s12s12s8sc100x8s247x", name, *numbers, b" " * 8, kind, b"ustar\x0000")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
