"""The watchdog of an attempt: ends requests that wait while the attempt has to end."""

from __future__ import annotations

import threading

from mlapi.execution.bounds import INTERVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.bounds import Bounds
    from mlapi.execution.client import Client


class Watchdog:
    """A thread that interrupts the requests of clients when the attempt ends, so that nothing waits for an answer."""

    def __init__(self, bounds: Bounds, *clients: Client) -> None:
        self._bounds, self._clients = bounds, list(clients)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def watch(self, client: Client) -> None:
        """Interrupt the requests of another client as well."""
        self._clients.append(client)

    def stop(self) -> None:
        """Interrupt nothing from now on."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            if self._bounds.end() is not None:
                for client in self._clients:
                    client.interrupt()
