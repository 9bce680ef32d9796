"""Readers of .tar, .tar.gz and .zip. They yield the members that an archive claims to hold, and trust no claim.

`canonical` explains why these are not `tarfile` and `zipfile`, and decides what is written.
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

from mlapi.archives.limits import BLOCK, CHUNK, BadArchive, Limits

RATIO_FROM = 1024 * 1024
"""Bytes of unpacked content from which the ratio of compression is limited."""

EXTENDED = 1024
"""Average bytes allowed for the extended headers of a file, in addition to its name."""

OVERHEAD = 4096
"""Bytes a tar may need for a file in addition to its content: headers, a long name, padding."""

TRUNCATED = "The archive is truncated, or not a .tar, .tar.gz or .zip."
DAMAGED = "The archive is damaged, or not a .tar, .tar.gz or .zip."
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"K": "a link",
    b"S": "a sparse file",
}
ENCRYPTED, PATCHED, ZIP64 = 0x2041, 0x20, 0xFFFFFFFF


class Member(NamedTuple):
    """One file or folder of an archive. Its chunks must be read before the next member."""

    name: str
    is_folder: bool
    executable: bool
    chunks: Iterable[bytes]


def members(source: BinaryIO, limits: Limits) -> Iterator[Member]:
    """Yield the members of a .tar, .tar.gz or .zip, or raise `BadArchive` if it cannot be read."""
    meter = _Meter(source, limits)
    source.seek(0)
    head = source.read(10)
    source.seek(0)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        yield from _zip_members(source, meter)
    else:
        yield from _tar_members(_Stream(meter.limited(_tar_chunks(head, meter.read))), limits)


class _Meter:
    """The numbers of bytes read from an archive and unpacked from it, checked against the limits."""

    def __init__(self, source: BinaryIO, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.packed = self.unpacked = 0

    def read(self, size: int) -> bytes:
        """Read from the archive."""
        data = self.source.read(size)
        self.packed += len(data)
        return data

    def limited(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield unpacked chunks, or raise `BadArchive` beyond the limits."""
        limit = self.limits.total_size + OVERHEAD * (self.limits.files + 4)
        for chunk in chunks:
            self.unpacked += len(chunk)
            if self.unpacked > max(RATIO_FROM, self.limits.ratio * self.packed):
                raise BadArchive(f"The archive unpacks to more than {self.limits.ratio} times its size.")
            if self.unpacked > limit:
                raise BadArchive(f"The archive unpacks to more than {limit} bytes.")
            yield chunk


def _inflated(read: Callable[[int], bytes], wbits: int) -> Iterator[bytes]:
    """Decompress the output of `read` in chunks. Data after the end of the stream is ignored."""
    inflate = zlib.decompressobj(wbits)
    data = read(CHUNK)
    while not inflate.eof:
        try:
            chunk = inflate.decompress(data, CHUNK)
        except zlib.error as error:
            raise BadArchive(DAMAGED) from error
        data = inflate.unconsumed_tail or read(CHUNK)
        if chunk:
            yield chunk
        elif not data and not inflate.eof:
            raise BadArchive(TRUNCATED)


class _Stream:
    """An iterator of chunks that is read in sizes of the reader's choice."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest = chunks, memoryview(b"")

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in chunks, or raise `BadArchive` if there are fewer."""
        while size:
            if not self.rest:
                self.rest = memoryview(next(self.chunks, b""))
            if not self.rest:
                raise BadArchive(TRUNCATED)
            chunk, self.rest = bytes(self.rest[:size]), self.rest[size:]
            size -= len(chunk)
            yield chunk

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes. The size must be known to be small."""
        return b"".join(self.take(size))

    def drain(self) -> None:
        """Read to the end, so that the checksum of a compressed stream is verified."""
        for _ in self.chunks:
            pass


def _tar_chunks(head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    if head.startswith(b"\xfd7zXZ\0") or (head.startswith(b"BZh") and head[4:] == b"1AY&SY"):
        raise BadArchive("bzip2 and xz are not supported; use gzip.")
    if head.startswith(b"\x1f\x8b"):
        return _inflated(read, wbits=31)
    return iter(partial(read, CHUNK), b"")


def _tar_members(stream: _Stream, limits: Limits) -> Iterator[Member]:
    shared: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    members_left, headers_left = limits.members, limits.files * (limits.path_length + EXTENDED)
    while any(block := stream.read(BLOCK)):
        if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
            raise BadArchive(DAMAGED)
        members_left -= 1
        kind, size = block[156:157], _number(block[124:136])
        if kind in (b"x", b"g", b"L"):
            headers_left -= size
            if headers_left < 0:
                raise BadArchive(f"The extended headers are too large for {limits.files} files.")
            text = stream.read(size + -size % BLOCK)[:size]
            (shared if kind == b"g" else own).update(_attributes(kind, text))
        else:
            yield from _tar_member(block, shared | own, stream)
            own = {}
        if members_left < 0:
            raise BadArchive(f"There are more than {limits.members} entries.")
    stream.drain()


def _attributes(kind: bytes, text: bytes) -> dict[bytes, bytes]:
    """Return the path and size from an extended header; other attributes are ignored."""
    if kind == b"L":
        return {b"path": text.rstrip(b"\0")}
    attributes = {}
    for key, value in _pax(text):
        if key.startswith(b"GNU.sparse"):
            raise BadArchive("The archive holds a sparse file.")
        if key in (b"path", b"size"):
            attributes[key] = value
    return attributes


def _tar_member(block: bytes, attributes: dict[bytes, bytes], stream: _Stream) -> Iterator[Member]:
    name = _text(attributes.get(b"path") or _ustar_name(block))
    kind = block[156:157]
    if kind not in (b"0", b"\0", b"5"):
        raise BadArchive(f"{name[:80]!a}: {KINDS.get(kind, 'an unknown type')}, not a regular file.")
    size = _tar_size(block, attributes)
    is_folder = kind == b"5" or name.endswith("/")
    if is_folder and size:
        raise BadArchive(f"{name[:80]!a}: both a file and a folder.")
    executable = bool(_number(block[100:108]) & stat.S_IXUSR)
    yield Member(name, is_folder, executable, stream.take(size))
    stream.read(-size % BLOCK)


def _tar_size(block: bytes, attributes: dict[bytes, bytes]) -> int:
    digits = attributes.get(b"size")
    if digits is None:
        return _number(block[124:136])
    if not digits.isdigit() or len(digits) > 20:
        raise BadArchive(DAMAGED)
    return int(digits)


def _ustar_name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of an extended header: the length of the record, a space, key=value, a newline."""
    start = 0
    while start < len(data):
        digits = data[start : start + 8].split(b" ")[0]
        end = start + int(digits) if digits.isdigit() else start
        key, _, value = data[start + len(digits) + 1 : end].partition(b"=")
        if not value.endswith(b"\n") or end > len(data):
            raise BadArchive(DAMAGED)
        yield key, value[:-1]
        start = end


def _number(digits: bytes) -> int:
    if digits[0] == 0x80:  # the GNU format for numbers too large for octal digits
        return int.from_bytes(digits[1:], "big")
    digits = digits.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise BadArchive(DAMAGED)
    return int(digits or b"0", 8)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise BadArchive(f"{name[:80]!a}: names must be UTF-8.") from error


class _Entry(NamedTuple):
    """One entry of the central directory of a zip."""

    offset: int
    name: bytes
    method: int
    executable: bool
    packed: int
    size: int
    crc: int


def _zip_members(source: BinaryIO, meter: _Meter) -> Iterator[Member]:
    entries, directory = _zip_directory(source, meter.limits)
    end = 0
    for entry in sorted(entries):
        start = _zip_data_start(source, entry)
        if entry.offset < end or start + entry.packed > directory:
            raise BadArchive("Entries of the zip overlap.")
        end = start + entry.packed
        source.seek(start)
        name = _text(entry.name)
        yield Member(name, name.endswith("/"), entry.executable, _unzipped(meter, entry))


def _zip_directory(source: BinaryIO, limits: Limits) -> tuple[list[_Entry], int]:
    """Return the entries of a zip and the offset of its central directory."""
    size = source.seek(0, os.SEEK_END)
    source.seek(max(0, size - 0xFFFF - 22))
    tail = source.read()
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - 18))
    if at < 0:
        raise BadArchive(TRUNCATED)
    disk, first, here, count, _, offset, _ = struct.unpack("<4H2LH", tail[at + 4 : at + 22])
    if disk or first or here != count or offset == ZIP64:
        raise BadArchive("Zips of several parts and zips of more than 4 GiB are not supported.")
    if count > limits.members:
        raise BadArchive(f"There are more than {limits.members} entries.")
    source.seek(offset)
    return [_zip_entry(source, limits) for _ in range(count)], offset


def _zip_entry(source: BinaryIO, limits: Limits) -> _Entry:
    fields = struct.unpack("<4s6H3L5H2L", _exactly(source.read, 46))
    (magic, _, _, flags, method, _, _, crc, packed, size, length, extra, comment, *_, mode, offset) = fields
    if magic != b"PK\1\2" or length > limits.path_length:
        raise BadArchive(f"The zip is damaged, or a name in it has more than {limits.path_length} bytes.")
    name = _exactly(source.read, length)
    source.seek(extra + comment, os.SEEK_CUR)
    kind = stat.S_IFMT(mode >> 16)
    if flags & ENCRYPTED:
        raise BadArchive(f"{name[:80]!a}: encrypted files are not supported.")
    if flags & PATCHED or method not in (0, 8) or ZIP64 in (packed, size, offset):
        raise BadArchive(f"{name[:80]!a}: unsupported zip compression or format; use plain deflate.")
    if kind not in (0, stat.S_IFDIR if name.endswith(b"/") else stat.S_IFREG):
        raise BadArchive(f"{name[:80]!a}: links and special files are not supported.")
    executable = kind == stat.S_IFREG and bool(mode >> 16 & stat.S_IXUSR)
    return _Entry(offset, name, method, executable, packed, size, crc)


def _zip_data_start(source: BinaryIO, entry: _Entry) -> int:
    source.seek(entry.offset)
    magic, _, flags, *_, length, extra = struct.unpack("<4s5H3L2H", _exactly(source.read, 30))
    if magic != b"PK\3\4" or flags & ENCRYPTED or _exactly(source.read, length) != entry.name:
        raise BadArchive(DAMAGED)
    start: int = entry.offset + 30 + length + extra
    return start


def _unzipped(meter: _Meter, entry: _Entry) -> Iterator[bytes]:
    packed = _portion(meter.read, entry.packed)
    chunks = _inflated(lambda _: next(packed, b""), wbits=-15) if entry.method else packed
    size = crc = 0
    for chunk in meter.limited(chunks):
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        yield chunk
    if (size, crc) != (entry.size, entry.crc):
        raise BadArchive(DAMAGED)


def _portion(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size:
        chunk = _exactly(read, min(CHUNK, size))
        size -= len(chunk)
        yield chunk


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise BadArchive(TRUNCATED)
    return data
