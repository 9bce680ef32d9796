"""The intake of module content without enough space; the rest is in the functional tests of modules."""

import subprocess
import sys

import pytest

# The limit of file size is for the whole process, so the intake runs in one of its own.
CODE = """
import io, resource, sys, tarfile
from pathlib import Path
from mlapi.archives.intake import Intake, write_archive
from mlapi.errors import StorageFull
from mlapi.storage.local import LocalStore

folder, step = Path(sys.argv[1]), sys.argv[2]
module = folder / "module"
module.mkdir()
(module / "main.py").write_bytes(bytes(150_000))
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as tar:
    tar.add(module, ".")
intake = Intake(LocalStore(folder / "blobs"), folder / "scratch")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if step == "spool":
        with intake.temporary_file() as file:
            write_archive(file, 10**6, [bytes(90_000), bytes(20_000)])
    elif step == "unpack":
        intake.store_archive(archive)
    else:
        intake.store_folder(module)
except StorageFull as full:
    print(full)
print(len(list((folder / "scratch").iterdir())))
"""


@pytest.mark.parametrize("step", ["spool", "unpack", "pack"])
def test_no_space_is_a_full_storage_at_every_step(tmp_path, step):
    ran = subprocess.run([sys.executable, "-c", CODE, tmp_path, step], capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["No space left in the storage.", "0"], ran.stderr
