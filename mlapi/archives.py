"""Archives of module code: unpacked by rules of our own, and packed so that equal files give equal bytes.

The formats are read here and not by `tarfile` and `zipfile`: both believe the headers (a PAX header is read
whole, whatever it weighs; a zip's directory is kept whole, however long), and both have had holes in what
they call safe extraction. Only regular files are ever made, and every limit counts bytes that were read.
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

CHUNK = 64 * 1024
BLOCK = 512
LEFT_OUT = frozenset({".git", "__pycache__"})
FILE, PROGRAM, FOLDER = 0o644, 0o755, 0o755


class BadArchive(ValueError):
    """An archive, or a folder to make one of, that breaks a rule; the message is for its author."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most; `ratio` is bytes unpacked for each byte read."""

    files: int = 1000
    file_size: int = 64 * 1024 * 1024
    total_size: int = 256 * 1024 * 1024
    ratio: int = 100
    path_length: int = 240
    depth: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.file_size < 8**11:
            raise ValueError("The header of a tar has no room for sizes of 8 GiB and more.")

    @property
    def members(self) -> int:
        """The most entries of any sort: folders and extended headers come on top of the files."""
        return 4 * self.files


DEFAULT_LIMITS = Limits()


def unpack(source: BinaryIO, folder: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the files of a .tar, .tar.gz or .zip beneath `folder`, which is made here or is empty.

    A single folder that holds everything, as in the archives of a repository, is stripped. `source` is read
    from its beginning and must be seekable. Where this raises `BadArchive`, part of the files may be in
    `folder`; an `OSError` means that this machine failed, not the archive.
    """
    # Here, because the job runner must start in milliseconds and the readers import this module.
    from mlapi.archive_readers import members

    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty.")
    tree = _Tree(folder, _Contents(limits))
    for member in members(source, limits):
        if member.is_folder:
            tree.add_folder(member.name)
        else:
            tree.add_file(member.name, member.executable, member.pieces)
    tree.contents.finish()
    _strip(folder)


def pack(folder: Path, out: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the files of `folder` to `out` as the one tar that any copy of the same files gives.

    Its sha256 identifies the content, so its bytes are made here: those that `tarfile` writes have changed
    between versions of Python. Files are in the order of their paths; no owner, time or other trace of a
    machine is kept. `.git`, `__pycache__` and `*.pyc` are left out.
    """
    contents = _Contents(limits)
    for path in sorted(_files(folder, contents)):
        _pack_file(folder, path, out, contents)
    contents.finish()
    out.write(bytes(2 * BLOCK))


@dataclass
class _Contents:
    """What has been found so far, and whether it may be in an archive."""

    limits: Limits
    files: int = 0
    size: int = 0
    taken: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def add(self, name: str, is_folder: bool = False) -> str:
        """Return the path that `name` stands for, taken from now on, or raise `BadArchive`."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if problem := self._problem_with(name, parts):
            raise BadArchive(f"{name[:80]!a}: {problem}")
        for end in range(1, len(parts) + 1):
            self._take("/".join(parts[:end]), is_folder or end < len(parts))
        self.files += not is_folder
        if self.files > self.limits.files or len(self.taken) > self.limits.members:
            raise BadArchive(f"There are more than {self.limits.files} files, or far more folders than files.")
        return "/".join(parts)

    def weighed(self, path: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on the content of a file for as long as it is within the limits."""
        size = 0
        for piece in pieces:
            size += len(piece)
            self.size += len(piece)
            if size > self.limits.file_size:
                raise BadArchive(f"{path!a}: the file is larger than {self.limits.file_size} bytes.")
            if self.size > self.limits.total_size:
                raise BadArchive(f"The files are larger than {self.limits.total_size} bytes together.")
            yield piece

    def finish(self) -> None:
        """Raise `BadArchive` where there was no file at all."""
        if not self.files:
            raise BadArchive("There are no files.")

    def _problem_with(self, name: str, parts: list[str]) -> str | None:
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
            return "names must be UTF-8 without control characters."
        if name.startswith("/") or "\\" in name or (name[1:2] == ":" and name[0].isalpha()):
            return "names must be relative paths with forward slashes."
        if ".." in parts or not parts:
            return "names must be those of something within the archive."
        if len(name.encode()) > self.limits.path_length or len(parts) > self.limits.depth:
            return f"paths may have {self.limits.path_length} bytes and {self.limits.depth} parts at most."
        return None

    def _take(self, path: str, is_folder: bool) -> None:
        key = unicodedata.normalize("NFC", path).casefold()
        known = self.taken.get(key)
        if known is None:
            self.taken[key] = (path, is_folder)
        elif known != (path, True) or not is_folder:
            raise BadArchive(f"{path!a}: {known[0]!a} is there already; names must differ in more than case.")


class _Tree:
    """The folder that an archive is written to, and that nothing of it leads out of."""

    def __init__(self, folder: Path, contents: _Contents) -> None:
        self.folder, self.contents = folder, contents
        self.made = {folder}

    def add_folder(self, name: str) -> None:
        """Take note of a folder; it is made once there is a file in it."""
        if name not in (".", "./"):
            self.contents.add(name, is_folder=True)

    def add_file(self, name: str, executable: bool, pieces: Iterable[bytes]) -> None:
        """Write a file that was not there."""
        path = self.folder / self.contents.add(name)
        self._make(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.writelines(self.contents.weighed(name, pieces))
            os.fchmod(file.fileno(), PROGRAM if executable else FILE)

    def _make(self, folder: Path) -> None:
        if folder not in self.made:
            self._make(folder.parent)
            folder.mkdir()
            folder.chmod(FOLDER)
            self.made.add(folder)


def _strip(folder: Path) -> None:
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        aside = inside[0].rename(folder / "\x01")  # no name in an archive has a control character
        for path in list(aside.iterdir()):
            path.rename(folder / path.name)
        aside.rmdir()


def _files(folder: Path, contents: _Contents) -> Iterator[str]:
    waiting = [""]
    while waiting:
        within = waiting.pop()
        with os.scandir(folder / within) as entries:
            for entry in entries:
                path = within + entry.name
                if entry.name in LEFT_OUT or entry.name.endswith(".pyc"):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(contents.add(path, is_folder=True) + "/")
                elif entry.is_file(follow_symlinks=False):
                    yield contents.add(path)
                else:
                    raise BadArchive(f"{path!a}: this is a link or otherwise no regular file.")


def _pack_file(folder: Path, path: str, out: BinaryIO, contents: _Contents) -> None:
    with open(os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        status = os.fstat(file.fileno())
        size, written = status.st_size, 0
        out.write(_headers(path, size, PROGRAM if status.st_mode & stat.S_IXUSR else FILE))
        for piece in contents.weighed(path, iter(partial(file.read, CHUNK), b"")):
            written += len(piece)
            out.write(piece)
    if written != size:
        raise BadArchive(f"{path!a}: the file changed while it was read.")
    out.write(bytes(-size % BLOCK))


def _headers(path: str, size: int, mode: int) -> bytes:
    name = path.encode()
    if path.isascii() and len(name) <= 100:
        return _header(name, size, mode)
    record = b" path=%b\n" % name
    length = next(n for n in count(len(record)) if n == len(record) + len(str(n)))
    data = b"%d%b" % (length, record)
    extended = _header(b"././@PaxHeader", len(data), FILE, kind=b"x") + data + bytes(-len(data) % BLOCK)
    return extended + _header(path.encode("ascii", "replace")[:100], size, mode)


def _header(name: bytes, size: int, mode: int, kind: bytes = b"0") -> bytes:
    """Return a block of POSIX's ustar: name, mode, owner, group, size, time, checksum, kind, magic."""
    numbers = (b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size, b"%011o\0" % 0)
    block = struct.pack("100s8s8s8s12s12s8sc100x8s247x", name, *numbers, b" " * 8, kind, b"ustar\x0000")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
