"""Messages that wake the schedulers of this machine: the service sends one when it has queued a job.

Each scheduler has a Unix socket in `data_dir`. A message is lost if nobody can receive it, so schedulers look at the
queue from time to time nevertheless.
"""

import contextlib
import os
import select
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Self

PREFIX = "scheduler-"
"""The prefix of the names of the sockets."""


def ring(folder: Path) -> None:
    """Wake the schedulers whose sockets are in a folder; sockets that killed schedulers have left are deleted."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                _send(sender, os.path.join(folder, name))


def _send(sender: socket.socket, path: str) -> None:
    try:
        sender.sendto(b"!", path)
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            os.unlink(path)
    except OSError:  # For example a full queue: then the scheduler has messages already.
        return


class Bell:
    """What a scheduler waits with. `audible` is whether `ring` reaches it; the path of its socket may be too long."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{PREFIX}{os.urandom(4).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._own, self._owner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._own.setblocking(False)
        try:
            self._socket.bind(os.fspath(self._path))
            self.audible = True
        except OSError:
            self.audible = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def wake(self) -> None:
        """Wake the scheduler, from another thread."""
        with contextlib.suppress(OSError):
            self._owner.send(b"!", socket.MSG_DONTWAIT)

    def wait(self, seconds: float, others: Iterable[int] = ()) -> bool:
        """Wait for a message, or until one of the other descriptors is readable; returns False if neither happened."""
        poll = select.poll()
        for descriptor in (self._socket.fileno(), self._own.fileno(), *others):
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(seconds * 1000)
        for receiver in (self._socket, self._own):
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(1):
                    pass
        return bool(ready)

    def close(self) -> None:
        """Delete the socket."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        for own in (self._socket, self._own, self._owner):
            own.close()
