"""Storage of blobs: content addresses, durability, full disks, kills, and sweeps during a put."""

import fcntl
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import mlapi
from mlapi.errors import StorageFull, TooLarge
from mlapi.storage import CHUNK, MissingBlob, StoredBlob, SweepResult, open_store
from mlapi.storage.local import BATCH, SMALL, LocalStore

MIB = 2**20


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "blobs")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(store: LocalStore) -> list[str]:
    """Return every file of the store except its lock."""
    return sorted(
        str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file() and path.name != "lock"
    )


def place(store: LocalStore, sha256: str) -> Path:
    return store.root / "sha256" / sha256[:2] / sha256


def age(path: Path, seconds: float = 7200) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def open_below(folder: Path) -> list[str]:
    """Return the open files of this process in a folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found


@contextmanager
def held(store: LocalStore, mode: int) -> Iterator[None]:
    with (store.root / "lock").open("rb") as lock:
        fcntl.flock(lock, mode)
        yield


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Path | str]:
    """The paths that are synced, and "replace" for every move."""
    steps: list[Path | str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor):
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_replace(path, target):
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    return steps


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start Python with `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mlapi.__file__).parents[1])},
    )


class TestPut:
    @pytest.mark.parametrize("chunks", [[], [b""], [b"a"], [b"ab", b"", b"c"], [bytes(CHUNK), b"x" * (CHUNK + 1)]])
    def test_stores_the_bytes_under_their_hash(self, store, chunks):
        content = b"".join(chunks)
        blob = store.put(iter(chunks))
        assert (blob.sha256, blob.size) == (sha(content), len(content))
        assert place(store, blob.sha256).read_bytes() == content
        assert files(store) == [f"sha256/{blob.sha256[:2]}/{blob.sha256}"]

    def test_hashes_chunks_of_all_sizes_in_their_order(self, store):
        contents = [bytes([number]) * size for number, size in enumerate([SMALL + 1, 1, SMALL, CHUNK, CHUNK, 3])]
        blob = store.put(iter(contents))
        assert blob.sha256 == sha(b"".join(contents))
        assert store.verify(blob.sha256)

    def test_equal_content_is_one_blob_with_a_new_time(self, store):
        first = store.put([b"same"])
        age(place(store, first.sha256))
        assert store.put([b"sa", b"me"]) == first
        assert len(files(store)) == 1
        assert place(store, first.sha256).stat().st_mtime > time.time() - 60

    def test_the_limit_is_the_last_size_accepted(self, store):
        assert store.put([b"12", b"345"], limit=5).size == 5
        before = files(store)
        with pytest.raises(TooLarge, match="larger than 5 bytes"):
            store.put([b"12", b"3456"], limit=5)
        assert files(store) == before

    def test_reads_no_further_than_the_limit(self, store):
        chunks = itertools.repeat(bytes(CHUNK))
        with pytest.raises(TooLarge):
            store.put(chunks, limit=MIB)

    @pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, GeneratorExit, ConnectionError])
    def test_a_failing_source_leaves_nothing(self, store, problem):
        def chunks():
            yield b"half"
            raise problem

        with pytest.raises(problem):
            store.put(chunks())
        assert files(store) == []

    def test_the_grace_period_starts_at_the_end(self, store):
        def chunks():
            yield b"slow"
            for path in (store.root / "tmp").iterdir():
                age(path)

        assert place(store, store.put(chunks()).sha256).stat().st_mtime > time.time() - 60

    @pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
    def test_is_private_whatever_the_umask(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            store = LocalStore(tmp_path / "blobs")
            store.put([b"secret"])
        finally:
            os.umask(before)
        for path in [store.root, *store.root.rglob("*")]:
            if path.name != "lock":
                assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path

    def test_syncs_the_file_before_and_the_folder_after_it_is_in_place(self, tmp_path, steps):
        store = LocalStore(tmp_path / "blobs")
        # The folders are there, and their names are safe, before any blob is.
        assert len(list((store.root / "sha256").iterdir())) == 256
        assert set(steps) == {store.root / "sha256", store.root, tmp_path}
        for _ in range(2):
            del steps[:]
            target = place(store, store.put([b"content"]).sha256)
            assert steps[0].parent == store.root / "tmp"
            assert steps[1:] == ["replace", target.parent]

    def test_memory_does_not_grow_with_the_content(self, store):
        tracemalloc.start()
        try:
            blob = store.put(bytes(CHUNK) for _ in range(128))
            with closing(store.open(blob.sha256)) as stream:
                assert sum(map(len, stream)) == blob.size == 32 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * MIB

    def test_threads_put_at_once(self, store):
        contents = [b"%d" % (number % 5) for number in range(20)]
        threads = [threading.Thread(target=store.put, args=([content],)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {blob.sha256 for blob in store.blobs()} == {sha(content) for content in contents}
        assert all(store.verify(blob.sha256) for blob in store.blobs())


class TestFull:
    def test_a_limit_of_file_size_is_a_full_store(self, store):
        code = """
import resource, sys
from pathlib import Path
from mlapi.errors import StorageFull
from mlapi.storage.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 + 100, 2**20 + 100))  # the third write is cut short
try:
    store.put([bytes(2**19)] * 3)
except StorageFull:
    print("full")
print(store.put([b"small"]).size)
"""
        with python(code, store.root) as process:
            assert process.communicate()[0].split() == ["full", "5"]
        assert [blob.size for blob in store.blobs()] == [5]
        assert len(files(store)) == 1

    def test_a_full_disk_keeps_its_blobs_and_recovers(self, tmp_path):
        root = tmp_path / "disk"
        root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            store = LocalStore(root / "blobs")
            kept = store.put([b"kept"])
            with pytest.raises(StorageFull):
                store.put(bytes(CHUNK) for _ in range(16))
            assert [blob.sha256 for blob in store.blobs()] == [kept.sha256]
            assert len(files(store)) == 1
            assert store.put([bytes(MIB)]).size == MIB
        finally:
            subprocess.run(["umount", str(root)], check=True)

    def test_other_disk_errors_are_not_a_full_store(self, store):
        (store.root / "tmp").rmdir()
        with pytest.raises(FileNotFoundError):
            store.put([b"content"])


class TestOpen:
    content = random.Random(1).randbytes(CHUNK * 2 + 100)

    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (0, None),
            (0, 0),
            (0, 1),
            (5, 5),
            (9, 5),
            (CHUNK - 1, CHUNK + 1),
            (1, CHUNK * 2),
            (CHUNK * 2, None),
            (CHUNK, CHUNK * 9),
            (CHUNK * 9, None),
        ],
    )
    def test_equals_a_slice(self, store, start, stop):
        blob = store.put([self.content])
        chunks = list(store.open(blob.sha256, start, stop))
        assert b"".join(chunks) == self.content[start:stop]
        assert all(0 < len(chunk) <= CHUNK for chunk in chunks)
        assert open_below(store.root) == []

    @pytest.mark.parametrize("taken", [0, 1])
    def test_closes_its_file_when_it_is_closed_early(self, store, taken):
        stream = store.open(store.put([self.content]).sha256)
        for _ in range(taken):
            next(stream)
        assert len(open_below(store.root)) == 1
        stream.close()
        stream.close()
        assert open_below(store.root) == []
        assert list(stream) == []

    def test_closes_its_file_when_it_is_garbage_collected(self, store):
        store.open(store.put([self.content]).sha256)
        assert open_below(store.root) == []

    def test_a_missing_blob_is_an_error_at_once(self, store):
        with pytest.raises(MissingBlob):
            store.open("0" * 64)

    def test_reads_on_while_the_blob_is_deleted(self, store):
        stream = store.open(store.put([self.content]).sha256)
        store.sweep(lambda batch: [], grace=-1)
        assert b"".join(stream) == self.content


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["", "../../etc/passwd", "/etc/passwd", *(char * 64 for char in "Ag/\0\u0663"), "a" * 63, "a" * 65],
    )
    def test_an_invalid_hash_never_becomes_a_path(self, store, name):
        for method in (store.open, store.size, store.verify):
            with pytest.raises(ValueError, match="64 lower-case hex"):
                method(name)

    def test_the_size_is_none_for_a_missing_blob(self, store):
        assert store.size(store.put([b"12345"]).sha256) == 5
        assert store.size("0" * 64) is None

    def test_a_store_is_opened_anew_in_its_folder(self, tmp_path):
        blob = open_store(tmp_path / "new" / "blobs").put([b"x"])
        assert open_store(tmp_path / "new" / "blobs").size(blob.sha256) == 1

    def test_lists_blobs_and_ignores_other_files(self, store):
        blob = store.put([b"listed"])
        beside = place(store, blob.sha256).parent
        (beside / "README").write_text("no blob")
        (beside / ("0" * 64)).write_text("in the wrong place")
        then = place(store, blob.sha256).stat().st_mtime
        assert list(store.blobs()) == [StoredBlob(blob.sha256, 6, then)]


class TestVerify:
    @pytest.mark.parametrize("damage", [b"", b"conten", b"contenT", b"content!"])
    def test_finds_damage_that_a_new_put_repairs(self, store, damage):
        blob = store.put([b"content"])
        assert store.verify(blob.sha256)
        place(store, blob.sha256).write_bytes(damage)
        assert not store.verify(blob.sha256)
        store.put([b"content"])
        assert store.verify(blob.sha256)

    def test_a_missing_blob_is_invalid(self, store):
        assert not store.verify("0" * 64)


class TestSweep:
    def test_deletes_only_old_and_unreferenced_blobs(self, store):
        old, named, new = (store.put([content]) for content in (b"old", b"named", b"new"))
        age(place(store, old.sha256))
        age(place(store, named.sha256))
        asked = []

        def referenced(batch):
            asked.extend(batch)
            return [named.sha256]

        assert store.sweep(referenced, grace=3600) == SweepResult(blobs=1, size=3, temporary=0)
        assert {blob.sha256 for blob in store.blobs()} == {named.sha256, new.sha256}
        assert set(asked) == {old.sha256, named.sha256}
        assert store.sweep(lambda batch: batch, grace=3600) == SweepResult(0, 0, 0)

    def test_checks_references_in_batches(self, store):
        names = [sha(b"%d" % number) for number in range(BATCH + 3)]
        for name in names:
            place(store, name).parent.mkdir(parents=True, exist_ok=True)
            place(store, name).touch()
            age(place(store, name))
        batches = []

        def referenced(batch):
            batches.append(len(batch))
            return names[:2]

        assert store.sweep(referenced, grace=0).blobs == BATCH + 1
        assert batches == [BATCH, 3]
        assert {blob.sha256 for blob in store.blobs()} == set(names[:2])

    def test_deletes_only_old_temporary_files(self, store):
        stale, fresh = store.root / "tmp" / "stale", store.root / "tmp" / "fresh"
        for path in (stale, fresh):
            path.write_bytes(b"half")
        age(stale)
        assert store.sweep(lambda batch: batch, grace=3600) == SweepResult(0, 0, temporary=1)
        assert files(store) == ["tmp/fresh"]

    def test_a_killed_put_leaves_a_temporary_file_that_is_swept(self, store):
        code = """
import sys, time
from pathlib import Path
from mlapi.storage.local import LocalStore
def chunks():
    yield bytes(2**20)
    print("written", flush=True)
    time.sleep(60)
LocalStore(Path(sys.argv[1])).put(chunks())
"""
        with python(code, store.root) as process:
            assert process.stdout.readline() == "written\n"
            process.send_signal(signal.SIGKILL)
        assert [path.split("/")[0] for path in files(store)] == ["tmp"]
        assert store.sweep(lambda batch: batch, grace=0) == SweepResult(0, 0, temporary=1)
        assert files(store) == []

    def test_keeps_a_blob_that_is_stored_again_during_the_check(self, store):
        blob = store.put([b"again"])
        age(place(store, blob.sha256))

        def referenced(batch):
            store.put([b"again"])
            return []

        assert store.sweep(referenced, grace=3600).blobs == 0
        assert store.verify(blob.sha256)

    def test_allows_a_concurrent_sweep(self, store):
        blob = store.put([b"twice"])
        age(place(store, blob.sha256))

        def referenced(batch):
            assert store.sweep(lambda batch: [], grace=3600).blobs == 1
            return []

        assert store.sweep(referenced, grace=3600).blobs == 0


class TestLock:
    def late(self, work) -> threading.Thread:
        """Start a thread that must not end while the lock is held."""
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        return thread

    def test_a_put_waits_for_a_sweep(self, store):
        with held(store, fcntl.LOCK_EX):
            thread = self.late(lambda: store.put([b"content"]))
            assert list(store.blobs()) == []
        thread.join()
        assert store.verify(sha(b"content"))

    def test_a_sweep_waits_for_a_put_and_keeps_its_blob(self, store):
        blob = store.put([b"content"])
        age(place(store, blob.sha256))
        with held(store, fcntl.LOCK_SH):
            thread = self.late(lambda: store.sweep(lambda batch: [], grace=3600))
            os.utime(place(store, blob.sha256))
        thread.join()
        assert store.verify(blob.sha256)

    def test_puts_do_not_wait_for_each_other(self, store):
        with held(store, fcntl.LOCK_SH):
            assert store.put([b"content"]).size == 7

    def test_a_put_is_never_lost_to_concurrent_sweeps(self, store):
        target = place(store, sha(b"content"))
        done = threading.Event()

        def sweeps():
            while not done.is_set():
                store.sweep(lambda batch: [], grace=3600)

        sweeper = threading.Thread(target=sweeps)
        sweeper.start()
        try:
            for _ in range(200):
                store.put([b"content"])
                assert target.exists()
                try:
                    age(target)
                except FileNotFoundError:
                    pytest.fail("swept within its grace")
        finally:
            done.set()
            sweeper.join()
