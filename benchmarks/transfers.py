"""Uploads and downloads of a large file: memory of the server, and speed."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.client import Connection, path_of
from benchmarks.service import HOME, Service, temporary_folder
from benchmarks.table import MIB, Row, at_least, grows

SIZE = 1024 * MIB
SMALLEST = 128 * MIB
"""The smallest file with which an increase of 64 MiB is meaningful."""

COPIES = 6
"""Number of such files on the disk at once: uploads, whose blobs are swept later, and the body of one."""

SPARE = 512 * MIB
GROWTH = 64 * MIB
SMALL, SMALL_FILES = 4096, 100
ROUNDS, LARGE_ROUNDS = 5, 3
BOUNDARY = "the-boundary-of-a-benchmark"


def files(_seconds: float) -> list[Row]:
    """Measure an upload as a raw body, an upload as a form and a download, each in a newly started server."""
    rows = []
    with temporary_folder() as folder:
        size = _size(shutil.disk_usage(folder).free)
        service = Service(folder)
        rows += _large(service, folder, size)
        for name, transfer in (("PUT", put_raw), ("POST as a form", post_form), ("GET", download)):
            rows += _measure(service, f"{name} {size // MIB} MiB", transfer, size)
    if size < SIZE:
        rows.append(Row(f"  (no room on the disk for {SIZE // MIB} MiB)", ""))
    return rows


def _large(service: Service, folder: Path, size: int) -> list[Row]:
    """Measure the speed of PUT against hashing, writing and syncing the same bytes."""
    rounds = []
    with service.serve(), service.log_in() as api:
        for _ in range(LARGE_ROUNDS):
            begun = time.perf_counter()
            put_raw(api, size)
            ours = time.perf_counter() - begun
            begun = time.perf_counter()
            _write_and_sync(folder, pieces(size))
            rounds.append((size / MIB / ours, size / MIB / (time.perf_counter() - begun)))
            (file,) = api.call("GET", f"{HOME}/files?name=raw")["items"]
            api.call("DELETE", path_of(file["url"]))
    return [at_least(f"PUT {size // MIB} MiB, in MiB", rounds, 0.65, 0.80)]


def small(_seconds: float) -> list[Row]:
    """Measure PUT of small files, one by one, against writing and syncing as many bare files on the same disk."""
    with temporary_folder() as folder:
        service = Service(folder)
        with service.serve(), service.log_in() as api:
            put_small(api, folder)
            rounds = [(put_small(api, folder), write_small(api, folder)) for _ in range(ROUNDS)]
    return [at_least("PUT a file of 4 KiB", rounds, 0.25, 0.40)]


def put_small(api: Connection, _folder: Path) -> float:
    """Upload small files; returns the rate per second."""
    begun = time.perf_counter()
    for _ in range(SMALL_FILES):
        api.upload("PUT", f"{HOME}/files?name=small", "application/octet-stream", SMALL, [os.urandom(SMALL)])
    return SMALL_FILES / (time.perf_counter() - begun)


def write_small(_api: Connection, folder: Path) -> float:
    """Write and sync small files; returns the rate per second."""
    begun = time.perf_counter()
    for _ in range(SMALL_FILES):
        _write_and_sync(folder, [os.urandom(SMALL)])
    return SMALL_FILES / (time.perf_counter() - begun)


def _write_and_sync(folder: Path, chunks: Iterable[bytes]) -> None:
    """Hash, write and sync a new file, one after the other: the least that a store has to do."""
    digest = hashlib.sha256()
    path = folder / f"bare-{os.urandom(8).hex()}"
    with path.open("xb", buffering=0) as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        os.fsync(file.fileno())
    path.unlink()


def put_raw(api: Connection, size: int) -> None:
    """Upload a file as the raw body of a request."""
    made = api.upload("PUT", f"{HOME}/files?name=raw", "application/octet-stream", size, pieces(size))
    _hold(made["size"], size)


def post_form(api: Connection, size: int) -> None:
    """Upload a file as a form."""
    disposition = 'Content-Disposition: form-data; name="file"; filename="form"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    tail = f"\r\n--{BOUNDARY}--\r\n".encode()

    def form() -> Iterator[bytes]:
        yield head
        yield from pieces(size)
        yield tail

    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    made = api.upload("POST", f"{HOME}/files", content_type, len(head) + size + len(tail), form())
    _hold(made["size"], size)


def download(api: Connection, size: int) -> None:
    """Download the file that was uploaded as a raw body."""
    (file,) = (each for each in api.call("GET", f"{HOME}/files?name=raw")["items"] if each["size"] == size)
    _hold(api.download(path_of(file["content"])), size)


def pieces(size: int) -> Iterator[bytes]:
    """A unique content of `size` bytes, in chunks."""
    piece = os.urandom(MIB)
    for _ in range(size // MIB):
        yield piece


def _hold(found: int, size: int) -> None:
    if found != size:
        raise RuntimeError(f"{found} bytes arrived of {size}.")


def _measure(service: Service, what: str, transfer: Callable[[Connection, int], None], size: int) -> list[Row]:
    with service.serve() as pid, service.log_in() as api:
        before = _restart_peak(pid)
        begun = time.perf_counter()
        transfer(api, size)
        spent = time.perf_counter() - begun
        grown = _memory(pid, "VmHWM") - before
    return [
        grows(f"{what}: memory of the server", max(grown, 0), GROWTH),
        Row("  its speed", f"{size / 1e6 / spent:.0f} MB/s"),
    ]


def _size(free: int) -> int:
    """The size of the file that fits on the disk, in whole MiB."""
    size = min(SIZE, (free - SPARE) // COPIES // MIB * MIB)
    if size < SMALLEST:
        raise RuntimeError(f"There is no room on the disk: {free // MIB} MiB are free.")
    return size


def _restart_peak(pid: int) -> int:
    """Reset the peak memory of a process, if the kernel supports it; returns its current memory."""
    # Otherwise the peak of the start is included, which only makes the result worse.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory(pid, "VmRSS")


def _memory(pid: int, name: str) -> int:
    """A memory figure of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"The kernel does not tell {name}.")
