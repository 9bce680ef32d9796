"""The folder in which an attempt runs."""

from __future__ import annotations

import os

from mlapi import scratch as folders
from mlapi.execution import leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.process import Child


class Workspace:
    """The folder of an attempt, locked while this process lives, and deleted afterwards.

    Before anything runs in it, what earlier attempts on this machine have left is killed and deleted.
    """

    def __init__(self, scratch: str, attempt: str = "0") -> None:
        self._scratch = os.path.abspath(scratch)
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        leftovers.sweep(self._scratch)
        self.path, self._lock = folders.create(self._scratch, leftovers.prefix(attempt))
        self.module, self.job = os.path.join(self.path, "module"), os.path.join(self.path, "job")
        self.input, self.output = os.path.join(self.job, "input"), os.path.join(self.job, "output")
        self.temporary = os.path.join(self.job, "tmp")
        try:
            leftovers.record(self.path, leftovers.RUNNER, os.getpid())
            for folder in (self.module, self.job, self.input, self.output, self.temporary):
                os.mkdir(folder, 0o700)
        except OSError:
            self.remove()
            raise

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
        leftovers.sweep(self._scratch)

    def remove(self) -> None:
        """Delete the folder and release its lock."""
        folders.remove_tree(self.path)
        os.close(self._lock)

    def record(self, child: Child) -> None:
        """Record the process of the function, by whose session others find what it leaves behind."""
        leftovers.record(self.path, leftovers.FUNCTION, child.pid)

    def environment(self, python: str) -> dict[str, str]:
        """Return the complete environment of a function."""
        return {
            "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
            "HOME": self.job,
            "LANG": "C.UTF-8",
            "TMPDIR": self.temporary,
            "MPLCONFIGDIR": os.path.join(self.temporary, "matplotlib"),
            "MLAPI_JOB_DIR": self.job,
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
