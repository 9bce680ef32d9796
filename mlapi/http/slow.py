"""Slow work: a shared limit on the threads that are busy with it, so that the others keep answering."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlapi.errors import Busy

RESERVED = 2
"""Threads of the server that never do slow work."""


class SlowWork:
    """The slots of a server with this many threads for work that takes long, such as hashing passwords."""

    def __init__(self, threads: int) -> None:
        self._free = threading.BoundedSemaphore(max(threads - RESERVED, 1))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot during the block. Raises `Busy` at once if none is free: a waiting thread would be lost too."""
        if not self._free.acquire(blocking=False):
            raise Busy
        try:
            yield
        finally:
            self._free.release()
