"""The scheduler's check of `mlapi.url`: runners can only work if the service answers there."""

import http.client
import json
import logging
import threading
import time
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

START = 30.0
"""Seconds that the service has to start."""

INTERVAL = 0.05
"""Seconds between two requests."""

BODY = 65536
"""Maximum number of bytes of a response to read."""

TIMEOUT = 2.0
"""Seconds for one step of a request, during which the scheduler cannot be stopped."""


FRESH = 1.0
"""Seconds for which the answer of the service counts."""

LONGEST_PAUSE = 5.0
"""Maximum number of seconds between two requests to a service that does not answer."""


class NoService(Exception):
    """No mlapi service answers at `mlapi.url`; the message is for the operator."""


def wait_for_service(url: str, stopping: threading.Event) -> None:
    """Wait until an mlapi service answers at `url`, or until `stopping` is set. Raises `NoService`."""
    deadline = time.monotonic() + START
    while not stopping.is_set() and (problem := problem_with(url)) is not None:
        if time.monotonic() > deadline:
            raise NoService(
                f"No mlapi service answers at {url}: {problem}. "
                "Set mlapi.url to the address at which this machine reaches it."
            )
        stopping.wait(INTERVAL)


class ServiceCheck:
    """Whether an mlapi service answers at a URL; it is asked at most once per second, and less often while it does not.

    The scheduler asks before it claims, because a claimed job waits for its runner, which needs the service.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._problem: str | None = None
        self._next, self._pause = 0.0, FRESH

    def answers(self) -> bool:
        """Return whether the service answers, or did within the last second."""
        if time.monotonic() >= self._next:
            self._note(problem_with(self._url))
            self._next = time.monotonic() + self._pause
        return self._problem is None

    def _note(self, problem: str | None) -> None:
        """Log a change, and choose the pause until the next request."""
        if problem is None:
            if self._problem is not None:
                log.info("The service at %s answers again.", self._url)
            self._pause = FRESH
        elif self._problem is None:
            log.warning("No mlapi service answers at %s: %s. No job is claimed until one does.", self._url, problem)
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._problem = problem


def problem_with(url: str) -> str | None:
    """The reason why there is no mlapi service at `url`, or None."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
        try:
            connection.request("GET", f"{parts.path}/api/v1", headers={"Accept": "application/json"})
            response = connection.getresponse()
            return _problem_with_response(response.status, response.read(BODY))
        finally:
            connection.close()
    except OSError as error:
        words = error.strerror or str(error) or type(error).__name__
        return words[:1].lower() + words[1:]
    except (http.client.HTTPException, ValueError):
        return "the response is not valid HTTP"


def _problem_with_response(status: int, body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return f"status {status} from another server"
    if document.get("service") == "mlapi":
        return None
    detail = document.get("detail") or "from another server"
    return f"status {status}, {str(detail).rstrip('.')}"
