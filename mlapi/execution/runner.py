"""The runner: a program that runs one attempt at a job, from its URL to its report.

It reads one line of JSON from stdin, which keeps the token out of arguments and environment::

    {"attempt": URL, "token": TOKEN, "scratch": FOLDER, "python": PROGRAM}

It needs only the standard library and starts quickly. It may be started ahead and wait for its line. Its exit status is
one of the `EXIT_` constants.
"""

from __future__ import annotations

import json
import signal
import sys

from mlapi.execution.client import Client
from mlapi.execution.deliver import collect, unsuccessful, upload
from mlapi.execution.errors import AttemptOver, JobCancelled, JobFailed, Rejected
from mlapi.execution.fetch import fetch
from mlapi.execution.heartbeat import Heartbeat
from mlapi.execution.lease import Lease
from mlapi.execution.log import Log
from mlapi.execution.process import guard_self
from mlapi.execution.watch import start, watch
from mlapi.execution.workspace import Workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.contract import Attempt, Report, Ticket

EXIT_REPORTED = 0
"""The result of the attempt was reported, whatever it was; or no ticket came."""

EXIT_FAILED = 1
"""The runner itself failed. It reported that if it could."""

EXIT_BAD_TICKET = 2
"""The line on stdin is not a ticket."""

EXIT_ABANDONED = 3
"""The attempt was over, or the runner was stopped: nothing was reported, and nothing is left running."""


class Run:
    """The run of one attempt."""

    def __init__(self, client: Client, lease: Lease, heartbeat: Heartbeat) -> None:
        self._client, self._lease, self._heartbeat = client, lease, heartbeat

    def report(self, attempt: Attempt, workspace: Workspace, python: str) -> Report:
        """Run the attempt and return the report of its result."""
        try:
            return self._phases(attempt, workspace, python)
        except JobFailed as error:
            return unsuccessful("FAILED", str(error))
        except JobCancelled:
            return unsuccessful("CANCELLED", "Cancelled while it ran.")

    def _phases(self, attempt: Attempt, workspace: Workspace, python: str) -> Report:
        fetch(self._client, self._heartbeat, attempt, workspace)
        log = Log(self._client, attempt["log_limit"])
        # Before the threads start: a fork is only safe in a process with one thread.
        child = start(attempt["command"], python, workspace)
        try:
            self._heartbeat.start()
            log.start()
            failure = watch(child, log, self._lease, attempt["timeout"])
        finally:
            child.close()
        self._lease.check()
        try:
            if failure:
                raise failure
            outputs = collect(attempt, workspace, log)
        finally:
            log.close()
        return upload(self._client, self._lease, attempt, outputs)


def run_attempt(ticket: Ticket, lease: Lease) -> None:
    """Run the attempt of a ticket and report its result."""
    client = Client(ticket["attempt"], ticket["token"], lease)
    attempt = client.attempt()
    lease.set_length(attempt["lease"])
    heartbeat = Heartbeat(Client(ticket["attempt"], ticket["token"], lease), lease, attempt["heartbeat"])
    heartbeat.send_first(client)
    with Workspace(ticket["scratch"]) as workspace:
        report = Run(client, lease, heartbeat).report(attempt, workspace, ticket["python"])
        try:
            client.report(report)
        except Rejected as error:
            client.report(unsuccessful("FAILED", f"The report was rejected: {error}"))
        heartbeat.stop()


def run(ticket: Ticket) -> int:
    """Run the attempt of a ticket and return the exit status of the runner."""
    lease = Lease()
    signal.signal(signal.SIGTERM, lambda *_: lease.end("The runner was stopped."))
    try:
        run_attempt(ticket, lease)
    except AttemptOver as error:
        sys.stderr.write(f"Attempt {ticket['attempt']} abandoned: {error}\n")
        return EXIT_ABANDONED
    except Exception as error:  # noqa: BLE001 - every failure must be reported
        return _report_error(ticket, lease, error)
    return EXIT_REPORTED


def _report_error(ticket: Ticket, lease: Lease, error: Exception) -> int:
    """Report that the runner itself failed, over a new connection that no thread uses."""
    message = getattr(error, "strerror", None) or str(error)
    report = unsuccessful("FAILED", f"The runner failed: {type(error).__name__}: {message}")
    try:
        Client(ticket["attempt"], ticket["token"], lease).report(report)
    except (AttemptOver, Rejected):
        return EXIT_ABANDONED
    return EXIT_FAILED


def _parse_ticket(line: bytes) -> Ticket | None:
    """Return the ticket in a line, or None if it is invalid."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    keys = ("attempt", "token", "scratch", "python")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in keys):
        return None
    if not document["attempt"].startswith(("http://", "https://")):
        return None
    return {
        "attempt": document["attempt"],
        "token": document["token"],
        "scratch": document["scratch"],
        "python": document["python"],
    }


def main() -> int:
    """Wait for a ticket on stdin and run its attempt."""
    guard_self()
    # Every attempt needs these (the codec is for host names). A runner that waits for its ticket imports them ahead.
    import encodings.idna  # noqa: F401

    import mlapi.archives.canonical  # noqa: F401

    line = sys.stdin.buffer.readline()
    if not line.strip():
        return EXIT_REPORTED
    ticket = _parse_ticket(line)
    if ticket is None:
        sys.stderr.write("The runner needs one line of JSON on stdin: attempt, token, scratch and python.\n")
        return EXIT_BAD_TICKET
    return run(ticket)


if __name__ == "__main__":
    sys.exit(main())
