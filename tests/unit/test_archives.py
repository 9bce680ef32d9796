"""Unpacking and packing of module archives. A hostile archive is an error, and writes nothing outside its folder."""

import bz2
import gzip
import hashlib
import io
import os
import random
import re
import socket
import stat
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlapi.archives.canonical import pack, unpack
from mlapi.archives.limits import BadArchive, Limits
from tests.work import count_calls

MANIFEST = ("mlapi.yaml", b"display_name: X\n")


def tar_member(name, content=b"", kind=tarfile.REGTYPE, mode=0o644, **more):
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def make_tar(*members, tar_format=tarfile.PAX_FORMAT, **options):
    """Return a tar of (name, content) pairs and of members from `tar_member`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format, **options) as archive:
        for member in members:
            info, content = tar_member(*member) if isinstance(member[0], str) else member
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def raw_tar(name=b"a", kind=b"0", content=b"", size=b"", magic=b"ustar\x0000"):
    """Return one tar member with a valid checksum, without the end of the archive."""
    size = size or b"%011o\0" % len(content)
    block = struct.pack("100s8s8s8s12s12s8sc100s8s247x", name, b"644", b"", b"", size, b"", b" " * 8, kind, b"", magic)
    block = block[:148] + b"%06o\0 " % sum(block) + block[156:]
    return block + content + bytes(-len(content) % 512)


def pax(**records):
    """Return a PAX header."""
    text = b""
    for key, value in records.items():
        record = b" %b=%b\n" % (key.replace("__", ".").encode(), value)
        text += b"%d%b" % (len(record) + 3, record) if len(record) > 96 else b"%02d%b" % (len(record) + 2, record)
    return raw_tar(b"pax", b"x", text)


def make_zip(*members, method=zipfile.ZIP_DEFLATED):
    """Return a zip of (name, content) and (name, content, mode), with the names unchanged."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content, *mode in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.compress_type, info.external_attr = method, (mode[0] if mode else 0o100644) << 16
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of names that come twice
                archive.writestr(info, content)
    return out.getvalue()


def patched(data, magic, at, field):
    """Return the zip with `field` at an offset of its first record with this magic number."""
    start = data.index(magic) + at
    return data[:start] + field + data[start + len(field) :]


def encrypted_zip():
    data = make_zip(MANIFEST)
    return patched(patched(data, b"PK\3\4", 6, b"\1\0"), b"PK\1\2", 8, b"\1\0")


def overlapping_zip():
    """Return a zip whose first, uncompressed file overlaps the second, as in bombs without nesting."""
    data = make_zip(("a", b"x" * 100), ("b", b"y" * 100), method=zipfile.ZIP_STORED)
    start, end = 30 + len("a"), data.index(b"PK\1\2")
    checksum = struct.pack("<3L", zlib.crc32(data[start:end]), end - start, end - start)
    return patched(data, b"PK\1\2", 16, checksum)


def lying_zip():
    """Return a zip whose directory claims 10 bytes for a larger file."""
    return patched(make_zip(("a", b"x" * 1000)), b"PK\1\2", 24, struct.pack("<L", 10))


def unpacked(data, folder, **limits):
    unpack(io.BytesIO(data), folder, Limits(**limits))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def packed(folder, **limits):
    out = io.BytesIO()
    pack(folder, out, Limits(**limits))
    return out.getvalue()


@pytest.fixture
def box(tmp_path):
    """A folder to unpack into, beside a file that must not change."""
    (tmp_path / "neighbour").write_bytes(b"untouched")
    folder = tmp_path / "box"
    yield folder
    assert sorted(path.name for path in tmp_path.iterdir()) in (["box", "neighbour"], ["neighbour"])
    assert (tmp_path / "neighbour").read_bytes() == b"untouched"
    assert all(stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR) for path in folder.rglob("*"))


FILES = {"mlapi.yaml": b"display_name: X\n", "src/a.py": b"1", "src/deep/b.py": b"", "é.txt": "é".encode()}

READABLE = {
    "tar, pax": make_tar(*FILES.items()),
    "tar, ustar": make_tar(*FILES.items(), tar_format=tarfile.USTAR_FORMAT),
    "tar, gnu": make_tar(*FILES.items(), tar_format=tarfile.GNU_FORMAT),
    "tar.gz": gzip.compress(make_tar(*FILES.items())),
    "tar.gz with trailing data": gzip.compress(make_tar(*FILES.items())) + b"trailing data",
    "zip, deflated": make_zip(*FILES.items()),
    "zip, stored": make_zip(*FILES.items(), method=zipfile.ZIP_STORED),
    "zip with trailing data": make_zip(*FILES.items()) + b"trailing data",
    "paths from the current folder": make_tar(
        tar_member("./", kind=tarfile.DIRTYPE), *((f"./{name}", content) for name, content in FILES.items())
    ),
    "folders of their own": make_tar(
        tar_member("src", kind=tarfile.DIRTYPE), tar_member("empty/", kind=tarfile.DIRTYPE), *FILES.items()
    ),
    "folders in a zip": make_zip(("src/", b"", 0o40755), ("none/", b"", 0), *FILES.items()),
    "of a repository, tar": make_tar(
        *((f"x-1.0/{name}", content) for name, content in FILES.items()), pax_headers={"comment": "a" * 40}
    ),
    "of a repository, zip": make_zip(("x-1.0/", b"", 0o40755), *((f"x-1.0/{n}", c) for n, c in FILES.items())),
}


@pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
def test_equal_files_are_unpacked_from_every_format(data, box):
    assert unpacked(data, box) == FILES
    digest = hashlib.sha256(packed(box)).hexdigest()
    # Pinned, because it names the content of modules that were registered by earlier releases.
    assert digest == "c0fd26bfcddde635fd6fb80114e3e2f77d4bacb188d5101e4c28b273890927fc"


def test_long_gnu_and_pax_names_are_supported(box, tmp_path):
    name = "é" * 30 + "/" + "b" * 120
    for number, tar_format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        data = make_tar(MANIFEST, (name, b"content"), tar_format=tar_format)
        assert unpacked(data, box / str(number))[name] == b"content"
        (box / str(number) / name).unlink()


def test_long_ustar_names_are_supported(box):
    name = "a" * 90 + "/" + "b" * 90
    assert name in unpacked(make_tar(MANIFEST, (name, b""), tar_format=tarfile.USTAR_FORMAT), box)


@pytest.mark.parametrize(
    "data",
    [
        pax(size=b"3") + raw_tar(content=b"xyz", size=b"%011o\0" % 0),
        raw_tar(content=b"xyz", size=b"\x80" + (3).to_bytes(11, "big")),
        raw_tar(content=b"xyz", size=b"      3 \0   "),
    ],
    ids=["pax", "base 256", "spaces"],
)
def test_every_format_of_a_size_is_supported(data, box):
    assert unpacked(data + bytes(1024), box) == {"a": b"xyz"}


def test_overlapping_zip_entries_are_an_error(box):
    with pytest.raises(BadArchive, match="overlap"):
        unpacked(overlapping_zip(), box)


@pytest.mark.parametrize(
    "data",
    [
        make_tar(tar_member("run", b"#!", mode=0o777), tar_member("a", b"", mode=0o4600)),
        make_zip(("run", b"#!", 0o100777), ("a", b"", 0)),
    ],
    ids=["tar", "zip"],
)
def test_only_the_executable_bit_of_the_owner_is_kept(data, box):
    before = os.umask(0o077)
    try:
        unpacked(data, box)
    finally:
        os.umask(before)
    assert stat.S_IMODE((box / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((box / "a").stat().st_mode) == 0o644


def test_folders_are_accessible_whatever_the_umask(box):
    before = os.umask(0o077)
    try:
        unpacked(make_tar(MANIFEST, ("src/a", b"")), box)
    finally:
        os.umask(before)
    assert stat.S_IMODE((box / "src").stat().st_mode) == 0o755


def test_a_single_top_level_folder_is_stripped_once(box):
    assert unpacked(make_tar(("x/x/x", b"1"), ("x/y", b"2")), box) == {"x/x": b"1", "y": b"2"}


def test_a_folder_beside_a_file_is_not_stripped(box):
    assert unpacked(make_tar(("x/a", b"1"), ("b", b"2")), box) == {"x/a": b"1", "b": b"2"}


HOSTILE = {
    "empty": b"",
    "text": b"This is no archive.",
    "long text": b"This is no archive. " * 100,
    "zeros": bytes(10240),
    "bz2": bz2.compress(make_tar(MANIFEST)),
    "gzip of text": gzip.compress(b"text"),
    "gzip of gzip": gzip.compress(gzip.compress(make_tar(MANIFEST))),
    "gzip cut": gzip.compress(make_tar(MANIFEST))[:-1],
    "gzip with a wrong checksum": gzip.compress(make_tar(MANIFEST))[:-8] + bytes(8),
    "no files": make_tar(tar_member("a", kind=tarfile.DIRTYPE)),
    "no end": raw_tar(content=b"x"),
    "parent": make_tar(MANIFEST, ("../neighbour", b"!")),
    "parent within": make_tar(MANIFEST, ("a/../../neighbour", b"!")),
    "parent as a folder": make_tar(MANIFEST, tar_member("..", kind=tarfile.DIRTYPE)),
    "parent by pax": pax(path=b"../neighbour") + make_tar(("a", b"!")),
    "parent by gnu": raw_tar(b"././@LongLink", b"L", b"../neighbour\0") + make_tar(("a", b"!")),
    "parent by prefix": make_tar((f"../{'a' * 60}/{'b' * 60}", b"!"), tar_format=tarfile.USTAR_FORMAT),
    "absolute": make_tar(MANIFEST, ("/tmp/mlapi-escaped", b"!")),
    "backslash": make_tar(MANIFEST, ("..\\neighbour", b"!")),
    "drive": make_tar(MANIFEST, ("C:/neighbour", b"!")),
    "nul by pax": pax(path=b"a\0b") + make_tar(("a", b"!")),
    "control character": make_tar(MANIFEST, ("a\nb", b"!")),
    "C1 control character": make_tar(MANIFEST, ("a\x9bb", b"!")),
    "line separator": make_tar(MANIFEST, ("a\u2028b", b"!")),
    "not UTF-8": raw_tar(b"a\xff") + bytes(1024),
    "lone surrogate": raw_tar(b"a\xed\xa0\x80") + bytes(1024),
    "the folder itself": make_tar(MANIFEST, tar_member(".", b"!")),
    "no name": raw_tar(b"") + bytes(1024),
    "long name": make_tar(MANIFEST, ("a" * 241, b"!")),
    "long name in bytes": make_tar(MANIFEST, ("é" * 121, b"!")),
    "deep": make_tar(MANIFEST, ("a/" * 16 + "b", b"!")),
    "twice": make_tar(MANIFEST, MANIFEST),
    "twice but for dots": make_tar(MANIFEST, ("./mlapi.yaml", b"!")),
    "case twins": make_tar(MANIFEST, ("MLAPI.yaml", b"!")),
    "case twins of folders": make_tar(MANIFEST, ("a/b", b"!"), ("A/c", b"!")),
    "accent twins": make_tar(MANIFEST, ("\u00e9", b"!"), ("e\u0301", b"!")),
    "file, then folder": make_tar(("a", b"!"), ("a/b", b"!")),
    "folder, then file": make_tar(("a/b", b"!"), ("a", b"!")),
    "file, then empty folder": make_tar(("a", b"!"), tar_member("a/", kind=tarfile.DIRTYPE)),
    "empty folder, then file": make_tar(tar_member("a/", kind=tarfile.DIRTYPE), ("a", b"!")),
    "folder with content": raw_tar(b"a/", content=b"!") + make_tar(MANIFEST),
    "symbolic link": make_tar(MANIFEST, tar_member("a", kind=tarfile.SYMTYPE, linkname="../neighbour")),
    "link, then a file through it": make_tar(
        tar_member("a", kind=tarfile.SYMTYPE, linkname=".."), ("a/neighbour", b"!")
    ),
    "hard link": make_tar(MANIFEST, tar_member("a", kind=tarfile.LNKTYPE, linkname="mlapi.yaml")),
    "long link": raw_tar(b"././@LongLink", b"K", b"../neighbour\0") + make_tar(MANIFEST),
    "character device": make_tar(MANIFEST, tar_member("a", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "block device": make_tar(MANIFEST, tar_member("a", kind=tarfile.BLKTYPE)),
    "fifo": make_tar(MANIFEST, tar_member("a", kind=tarfile.FIFOTYPE)),
    "contiguous": make_tar(MANIFEST, tar_member("a", kind=tarfile.CONTTYPE)),
    "unknown kind": raw_tar(kind=b"Z") + make_tar(MANIFEST),
    "sparse, old": raw_tar(kind=b"S") + make_tar(MANIFEST),
    "sparse, pax": pax(GNU__sparse__major=b"1") + make_tar(MANIFEST),
    "huge pax": raw_tar(b"pax", b"x", size=b"%011o\0" % 2**30) + bytes(8192),
    "negative size": raw_tar(size=b"\xff" * 12) + bytes(1024),
    "endless size": raw_tar(size=b"\x80" + b"\xff" * 11) + bytes(1024),
    "size that is none": raw_tar(size=b"0x10") + bytes(1024),
    "size that is none, by pax": pax(size=b"-5") + make_tar(MANIFEST),
    "size of 5000 digits, by pax": pax(size=b"9" * 5000) + make_tar(MANIFEST),
    "pax of no length": raw_tar(b"pax", b"x", b"0 path=a\n") + make_tar(MANIFEST),
    "pax of wrong length": raw_tar(b"pax", b"x", b"99 path=a\n") + make_tar(MANIFEST),
    "pax of no key": raw_tar(b"pax", b"x", b"7 path\n") + make_tar(MANIFEST),
    "pax of endless length": raw_tar(b"pax", b"x", b"9" * 5000) + make_tar(MANIFEST),
    "zip, parent": make_zip(MANIFEST, ("../neighbour", b"!")),
    "zip, absolute": make_zip(MANIFEST, ("/tmp/mlapi-escaped", b"!")),
    "zip, backslash": make_zip(MANIFEST, ("..\\neighbour", b"!")),
    "zip, drive": make_zip(MANIFEST, ("c:neighbour", b"!")),
    "zip, control character": make_zip(MANIFEST, ("a\x7f", b"!")),
    "zip, not UTF-8": make_zip(MANIFEST, ("aaaa", b"!")).replace(b"aaaa", b"a\xff\xffa"),
    "zip, twice": make_zip(MANIFEST, MANIFEST),
    "zip, case twins": make_zip(MANIFEST, ("Mlapi.yaml", b"!")),
    "zip, file and folder": make_zip(("a", b"!"), ("a/b", b"!")),
    "zip, long name": make_zip(MANIFEST, ("a" * 241, b"!")),
    "zip, symbolic link": make_zip(MANIFEST, ("a", b"../neighbour", 0o120777)),
    "zip, fifo": make_zip(MANIFEST, ("a", b"", 0o10644)),
    "zip, folder that is a file": make_zip(MANIFEST, ("a/", b"", 0o100644)),
    "zip, encrypted": encrypted_zip(),
    "zip, bzip2 within": make_zip(MANIFEST, method=zipfile.ZIP_BZIP2),
    "zip, lying": lying_zip(),
    "zip, wrong checksum": patched(make_zip(MANIFEST), b"PK\1\2", 16, b"\0\0\0\0"),
    "zip, two names": patched(make_zip(MANIFEST), b"PK\1\2", 46, b"M"),
    "zip, empty": make_zip(),
    "zip, shorter than its end": b"PK\5\6" + bytes(13),
    "zip, no directory": make_zip(MANIFEST)[:-30],
    "zip, zip64": patched(make_zip(MANIFEST), b"PK\1\2", 20, b"\xff\xff\xff\xff"),
    "zip, directory elsewhere": patched(make_zip(MANIFEST), b"PK\5\6", 16, b"\xff\0\0\0"),
    "zip, of several parts": patched(make_zip(MANIFEST), b"PK\5\6", 4, b"\1\0"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_an_error(data, box):
    with pytest.raises(BadArchive) as caught:
        unpacked(data, box)
    assert str(caught.value).endswith(".")
    assert str(caught.value).isprintable()
    assert not Path("/tmp/mlapi-escaped").exists()


REASONS = {
    "parent by pax": "paths must lie within the archive",
    "absolute": "paths must be relative",
    "control character": "control characters",
    "case twins": "'MLAPI.yaml': conflicts with 'mlapi.yaml'",
    "folder with content": "both a file and a folder",
    "symbolic link": "'a': a symbolic link, not a regular file",
    "hard link": "'a': a hard link",
    "fifo": "'a': a named pipe",
    "sparse, old": "sparse file",
    "bz2": "use gzip",
    "gzip with a wrong checksum": "damaged",
    "text": "not a .tar, .tar.gz or .zip",
    "zip, encrypted": "encrypted",
    "zip, bzip2 within": "use plain deflate",
    "zip, zip64": "use plain deflate",
    "zip, of several parts": "several parts",
    "zip, long name": "more than 240 bytes",
    "zip, symbolic link": "links and special files",
}


@pytest.mark.parametrize(("name", "words"), REASONS.items(), ids=REASONS)
def test_the_error_names_the_problem(name, words, box):
    with pytest.raises(BadArchive, match=re.escape(words)):
        unpacked(HOSTILE[name], box)


def test_a_zip_directory_is_limited(box):
    with pytest.raises(BadArchive, match="more than 12 entries"):
        unpacked(make_zip(*((f"{number}/", b"", 0) for number in range(13))), box, **ROOMY)


def test_gnu_fields_in_place_of_the_posix_prefix_are_ignored(box):
    block = bytearray(raw_tar(b"a", magic=b"ustar  \0"))
    block[345:357] = b"15000000000\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    assert unpacked(bytes(block) + bytes(1024), box) == {"a": b""}


ROOMY = {"files": 3, "file_size": 100, "total_size": 150, "path_length": 8, "depth": 2}


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([(name, b"") for name in "abcd"], "more than 3 files"),
        ([("a", b"x" * 101)], "larger than 100 bytes"),
        ([("a", b"x" * 100), ("b", b"x" * 51)], "larger than 150 bytes in total"),
        ([("a" * 9, b"")], "8 bytes"),
        ([("a/b/c", b"")], "2 parts"),
        ([(f"{name}/", b"", 0) for name in "abcdefghijklm"], "more than"),
    ],
    ids=["files", "file_size", "total_size", "path_length", "depth", "members"],
)
def test_an_archive_over_a_limit_is_an_error(make, members, words, box):
    if make is make_tar:
        members = [tar_member(n, c, tarfile.DIRTYPE if n.endswith("/") else b"0") for n, c, *_ in members]
    with pytest.raises(BadArchive, match=words):
        unpacked(make(*members), box, **ROOMY)


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_an_archive_at_every_limit_is_unpacked(make, box):
    files = {"a" * 8: b"x" * 100, "b/c": b"x" * 50, "d": b""}
    assert unpacked(make(*files.items()), box, **ROOMY) == files
    assert unpacked(packed(box, **ROOMY), box / "again", **ROOMY) == files


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(make_tar(("a", bytes(8_000_000)))),
        make_zip(("a", bytes(8_000_000))),
        make_zip(*((f"{number}", bytes(80_000)) for number in range(100))),
        gzip.compress(make_tar(MANIFEST) + bytes(8_000_000)),
    ],
    ids=["tar.gz", "zip", "zip of many", "after the end"],
)
def test_a_bomb_is_an_error_by_its_ratio(data, box):
    assert len(data) < 30_000
    with pytest.raises(BadArchive, match="100 times its size"):
        unpacked(data, box)
    assert sum(path.stat().st_size for path in box.rglob("*")) < 7_000_000


def test_data_after_the_end_of_a_tar_counts_too(box):
    with pytest.raises(BadArchive, match="unpacks to more than"):
        unpacked(make_tar(MANIFEST) + bytes(40_000), box, **{**ROOMY, "path_length": 20})


def test_a_small_file_may_have_any_ratio(box):
    assert unpacked(gzip.compress(make_tar(("a", bytes(1_000_000)))), box) == {"a": bytes(1_000_000)}


def test_sizes_are_counted_whatever_the_header_claims(box):
    """The zip claims 1 byte and has more than the limit, which stops it."""
    data = patched(make_zip(("a", random.Random(1).randbytes(100_000))), b"PK\1\2", 24, struct.pack("<L", 1))
    with pytest.raises(BadArchive, match="larger than 70000 bytes"):
        unpacked(data, box, file_size=70_000)
    assert (box / "a").stat().st_size <= 70_000


@pytest.mark.parametrize("kind", [b"g", b"x", b"L"])
def test_extended_headers_cost_limited_work(kind, box):
    text = b"".join(b"10 k%03d=x\n" % (number % 1000) for number in range(6000)) if kind != b"L" else b"a" * 60_000
    data = gzip.compress(raw_tar(b"pax", kind, text) * 200 + make_tar(MANIFEST), 1)

    def unpack_it():
        with pytest.raises(BadArchive, match="extended headers"):
            unpacked(data, box, ratio=10_000)

    _, calls = count_calls(unpack_it)
    assert calls < 1_500_000


def test_the_number_of_extended_headers_is_limited(box):
    with pytest.raises(BadArchive, match="more than 12 entries"):
        unpacked(pax(path=b"a" * 4) * 13 + make_tar(MANIFEST), box, **ROOMY)


@pytest.mark.parametrize("name", ["tar, pax", "tar.gz", "zip, deflated"])
def test_a_truncated_archive_is_an_error(name, tmp_path):
    data = READABLE[name]
    end = len(data.rstrip(b"\0")) if name == "tar, pax" else len(data) - 1
    for cut in {0, 1, end, *range(0, end, max(1, end // 60))}:
        with pytest.raises(BadArchive):
            unpacked(data[:cut], tmp_path / str(cut))


@pytest.mark.parametrize("name", ["tar, pax", "tar, gnu", "tar.gz", "zip, deflated", "zip, stored"])
def test_a_damaged_archive_never_leaves_the_folder(name, box):
    chance = random.Random(20)
    original = READABLE[name].rstrip(b"\0") + bytes(1024) if name.startswith("tar,") else READABLE[name]
    refused = 0
    for number in range(80):
        data = bytearray(original)
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            unpacked(bytes(data), box / str(number))
        except BadArchive:
            refused += 1
    assert refused > 20


def test_a_folder_that_is_not_empty_is_not_changed(box):
    box.mkdir()
    (box / "mlapi.yaml").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        unpacked(make_tar(MANIFEST), box)
    assert (box / "mlapi.yaml").read_bytes() == b"mine"


def test_a_link_that_appears_while_unpacking_is_not_followed(box):
    class Racing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() == 0 and box.exists() and not (box / "a").is_symlink():
                (box / "a").symlink_to("../neighbour")
            return super().read(size)

    with pytest.raises(FileExistsError):
        unpack(Racing(make_tar(("a", b"!"))), box)
    (box / "a").unlink()


def test_packing_excludes_git_and_bytecode(tmp_path):
    for name in (".git/config", "src/__pycache__/a.cpython-311.pyc", "src/b.pyc", "src/a.py", ".gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "src" / ".git").symlink_to("/")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path))) as archive:
        assert archive.getnames() == [".gitignore", "src/a.py"]


def test_a_packed_folder_has_no_trace_of_the_machine(tmp_path):
    long_name = "é" * 60 + "/" + "b" * 100
    for name, mode in (("b", 0o600), ("a", 0o700), ("a.d/x", 0o666), (long_name, 0o444)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        (tmp_path / name).chmod(mode)
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path))) as archive:
        members = archive.getmembers()
        assert [archive.extractfile(member).read().decode() for member in members] == [m.name for m in members]
    assert [(member.name, member.mode) for member in members] == [
        ("a", 0o755),
        ("a.d/x", 0o644),
        ("b", 0o644),
        (long_name, 0o644),
    ]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.type) for m in members} == {(0, 0, "", "", 0, b"0")}


def bind(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # the path of a socket must be short


def test_packing_links_and_special_files_is_an_error(tmp_path):
    for number, make in enumerate(
        [
            lambda path: path.symlink_to("mlapi.yaml"),
            lambda path: path.symlink_to(tmp_path),
            os.mkfifo,
            bind,
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mlapi.yaml").write_bytes(b"x")
        make(folder / "special")
        with pytest.raises(BadArchive, match="'special': links and special files are not supported"):
            packed(folder)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no files"),
        (["a" * 9], "8 bytes"),
        (["a/b/c"], "2 parts"),
        (["a", "b", "c", "d"], "3 files"),
        (["a\\b"], "slashes"),
        (["a\nb"], "control"),
        ([os.fsdecode(b"\xff")], "UTF-8"),
        (["a", "A"], "case"),
    ],
)
def test_packing_and_unpacking_have_the_same_rules(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadArchive, match=words):
        packed(tmp_path, **ROOMY)


@pytest.mark.parametrize(("sizes", "words"), [((101,), "100 bytes"), ((100, 51), "150 bytes in total")])
def test_packing_has_the_same_limits_of_size(tmp_path, sizes, words):
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(bytes(size))
    with pytest.raises(BadArchive, match=words):
        packed(tmp_path, **ROOMY)


def test_packing_limits_the_number_of_folders(tmp_path):
    for number in range(13):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(BadArchive, match="far more folders than files"):
        packed(tmp_path, **ROOMY)


def test_a_file_that_changes_while_packed_is_an_error(tmp_path):
    class Meddling(io.BytesIO):
        def write(self, data):
            (tmp_path / "a").write_bytes(b"longer")
            return super().write(data)

    (tmp_path / "a").write_bytes(b"short")
    with pytest.raises(BadArchive, match="changed while it was packed"):
        pack(tmp_path, Meddling())


def test_limits_beyond_the_tar_format_are_an_error():
    with pytest.raises(ValueError, match="8 GiB"):
        Limits(file_size=8 * 2**30)


NAMES = st.lists(st.text("abé漢 .-_", min_size=1, max_size=60).filter(lambda n: n.strip(".")), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES.map("/".join), st.tuples(st.binary(max_size=1200), st.booleans()), max_size=5))
def test_packing_is_canonical(files):
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name) / "first", Path(name) / "second"
        first.mkdir()
        (first / "mlapi.yaml").write_bytes(b"x")
        for path, (content, executable) in files.items():
            try:
                (first / path).parent.mkdir(parents=True, exist_ok=True)
                (first / path).write_bytes(content)
                (first / path).chmod(0o755 if executable else 0o644)
            except OSError:  # a file where another path has a folder
                continue
        try:
            data = packed(first)
        except BadArchive:  # of paths that are too long
            assume(False)
        unpack(io.BytesIO(data), second)
        assert packed(second) == data
