"""The heartbeat of a runner, which renews its lease and reports whether the job is cancelled."""

from __future__ import annotations

import threading

from mlapi.execution.client import ENDED, TIMEOUT, Client, Request, Response
from mlapi.execution.errors import NoResponse
from mlapi.execution.lease import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.bounds import Bounds

RETRY = 0.5
"""Seconds until a failed heartbeat is repeated."""


class Heartbeat:
    """Heartbeats at a fixed interval.

    They are sent whenever the bounds of the attempt are checked, and by a thread after `start`.
    """

    def __init__(self, client: Client, bounds: Bounds) -> None:
        self._client, self._bounds, self._lease = client, bounds, bounds.lease
        self._interval, self._due = RETRY, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def send_first(self, client: Client, interval: float) -> None:
        """Send the first heartbeat until it is answered, which confirms that the attempt belongs to this runner.

        The others follow at an interval of these seconds.
        """
        sent, self._interval = now(), interval
        self._receive(client.call(Request("POST", "/heartbeat", b"{}")), sent)

        self._bounds.renew = self._send_if_due

    def start(self) -> None:
        """Send heartbeats in the background from now on."""
        self._bounds.renew = None
        self._thread.start()

    def stop(self) -> None:
        """Send no further heartbeats. One on its way may still be answered."""
        self._stop.set()

    def _run(self) -> None:
        while not self._lease.over and not self._stop.wait(max(0.0, self._due - now())):
            self._send()
        self._client.close()

    def _send_if_due(self) -> None:
        if now() >= self._due and not self._stop.is_set():
            self._send()

    def _send(self) -> None:
        sent = now()
        timeout = max(0.5, min(TIMEOUT, self._lease.remaining()))
        try:
            response = self._client.call_once(Request("POST", "/heartbeat", b"{}", timeout=timeout))
        except NoResponse:
            self._due = now() + min(self._interval, RETRY)
            return
        self._receive(response, sent)

    def _receive(self, response: Response, sent: float) -> None:
        """Process the response to the heartbeat sent at `sent`."""
        if response.successful:
            self._lease.renew(sent)
            self._due = sent + self._interval
            if response.json().get("cancel") is True:
                self._bounds.cancelled = True
        elif response.status in ENDED and self._bounds.reporting:
            # Probably the report has ended the attempt, and its response is on its way, or was lost: then the
            # repetition gets it.
            self.stop()
        elif response.status in ENDED:
            self._lease.end(response.message())
        else:
            self._due = now() + min(self._interval, RETRY)
