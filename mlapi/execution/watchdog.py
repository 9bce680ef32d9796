"""The watchdog of an attempt: ends requests that wait while the attempt has to end."""

from __future__ import annotations

import threading

from mlapi.execution.bounds import INTERVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.bounds import Bounds
    from mlapi.execution.client import Client


class Watchdog:
    """A thread that interrupts the request of a client when the attempt ends, so that nothing waits for its answer."""

    def __init__(self, bounds: Bounds, client: Client) -> None:
        self._bounds, self._client = bounds, client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Interrupt nothing from now on."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            if self._bounds.end() is not None:
                self._client.interrupt()
