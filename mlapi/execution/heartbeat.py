"""The heartbeat of a runner, which renews its lease and reports whether the job is cancelled."""

from __future__ import annotations

import threading

from mlapi.execution.client import ENDED, TIMEOUT, Client, Request, Response
from mlapi.execution.errors import JobCancelled, NoResponse
from mlapi.execution.lease import Lease, now

RETRY = 0.5
"""Seconds until a failed heartbeat is repeated."""


class Heartbeat:
    """Heartbeats at a fixed interval. While a function runs, a background thread sends them."""

    def __init__(self, client: Client, lease: Lease, interval: float) -> None:
        self._client, self._lease, self._interval = client, lease, interval
        self._due = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def send_first(self, client: Client) -> None:
        """Send the first heartbeat until it is answered, which confirms that the attempt belongs to this runner."""
        sent = now()
        self._receive(client.call(Request("POST", "/heartbeat", b"{}")), sent)

    def renew_and_check(self) -> None:
        """Renew the lease if it is time, and raise `AttemptOver` or `JobCancelled` if the attempt must end."""
        if now() >= self._due:
            self._send()
        self._lease.check()
        if self._lease.cancelled:
            raise JobCancelled

    def start(self) -> None:
        """Send heartbeats in the background from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Send no further heartbeats. One on its way may still be answered."""
        self._stop.set()

    def _run(self) -> None:
        while not self._lease.over and not self._stop.wait(max(0.0, self._due - now())):
            self._send()
        self._client.close()

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
                self._lease.cancelled = True
        elif response.status in ENDED:
            self._lease.end(response.message())
        else:
            self._due = now() + min(self._interval, RETRY)
