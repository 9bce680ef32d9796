"""The runner: one program that carries one attempt at a job from its URL to its report.

It reads one line of JSON from stdin, so that the token is in no argument and no environment::

    {"attempt": URL, "token": TOKEN, "scratch": FOLDER, "python": PROGRAM}

It needs nothing but the standard library and is quick to start; it may be started ahead and left waiting for
its line. It exits with one of the `EXIT_` numbers below.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import threading
import time
from functools import partial

from mlapi.execution.client import AttemptOver, Damaged, Heart, Lease, Link, Refused
from mlapi.execution.outputs import BadOutput, Outputs, read_outputs
from mlapi.execution.process import CannotStart, Child, Workspace, guard_self, kill_strays
from mlapi.file_names import plain_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_REPORTED = 0
"""The attempt's end was reported, whatever it was; or there was nothing to do."""

EXIT_FAILED = 1
"""The runner itself failed; it reported that, if it could."""

EXIT_BAD_TICKET = 2
"""What came on stdin is no ticket."""

EXIT_LEFT = 3
"""The attempt was over, or the runner was told to stop: nothing was reported and nothing is left running."""

TICK = 0.2
"""Seconds between two looks at the clock and at the wish to cancel; also between two pieces of the log."""

LAST_WORDS = 0.5
"""Seconds to wait for the end of the pipe once all that held it should be dead."""

LOG_PIECE = 256 * 1024
REASON_LIMIT = 1000


class JobFailed(Exception):
    """The attempt ends as FAILED; the message is the reason, for the person who reads it."""


class JobCancelled(Exception):
    """The attempt ends as CANCELLED."""


class Log:
    """The attempt's log on its way to the server: written at once, sent by a thread of its own.

    What is over the limit is dropped, and the last line says so; it has its place within the limit.
    """

    def __init__(self, link: Link, limit: int) -> None:
        self._link, self._limit = link, limit
        self._pending = bytearray()
        self._written = self._sent = self._offset = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """Send from now on, in the background."""
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take in more of the log; this never waits for the network."""
        with self._changed:
            self._pending += data[: max(0, self._limit - self._written)]
            self._written += len(data)
            self._changed.notify()

    def close(self) -> None:
        """Wait until all is sent, or until nothing more can be."""
        with self._changed:
            self._closing = True
            if self._written > self._limit:
                self._say_what_is_missing()
            self._changed.notify()
        self._thread.join()

    def _notice(self, missing: int) -> bytes:
        words = f"\n[mlapi] The log has a limit of {self._limit} bytes: {missing} bytes were left out.\n"
        return words.encode()[: self._limit]

    def _say_what_is_missing(self) -> None:
        """Put the last line in the place of the last bytes, which were held back for it."""
        kept = self._limit - len(self._notice(self._written))
        self._pending = self._pending[: max(0, kept - self._sent)]
        self._pending += self._notice(self._written - self._sent - len(self._pending))

    def _run(self) -> None:
        try:
            while piece := self._next():
                self._deliver(piece)
        except (AttemptOver, Refused):
            # Either the attempt is over, which the lease knows, or the server wants no more of the log.
            return

    def _next(self) -> bytes:
        """Wait for something to send and return it, nothing at the end."""
        # The end of what may be sent before it is known whether the last line is needed.
        held = self._limit - len(self._notice(10**15))
        with self._changed:
            if not self._closing and self._sent:
                self._changed.wait_for(lambda: self._closing, TICK)
            self._changed.wait_for(lambda: self._closing or (self._pending and self._sent < held))
            room = LOG_PIECE if self._closing else min(LOG_PIECE, held - self._sent)
            return bytes(self._pending[:room])

    def _deliver(self, piece: bytes) -> None:
        """Send a piece, and go on where the server says that its log ends."""
        end = self._link.append_log(self._offset, piece)
        if end == self._offset:
            raise Refused("the server takes no more of the log")
        taken = min(max(0, end - self._offset), len(piece))
        with self._changed:
            del self._pending[:taken]
            self._sent += taken
        self._offset = end


class Run:
    """One attempt: what it is to do, where, and how far it has come."""

    def __init__(self, link: Link, lease: Lease, heart: Heart, job: dict[str, Any], place: Workspace) -> None:
        self._link, self._lease, self._heart = link, lease, heart
        self._job, self._place = job, place
        self._log = Log(link, job["log_limit"])

    def result(self, python: str) -> dict[str, Any]:
        """Do it all and return the report of its success; raise for every other end."""
        self._fetch_module()
        self._fetch_inputs()
        # Before the threads: a fork is only safe from a process that has one.
        child = self._start(python)
        try:
            self._heart.start()
            self._log.start()
            stopped = self._watch(child)
            status = child.reap()
            kill_strays()
            self._drain(child, LAST_WORDS)
        finally:
            child.close()
        self._lease.check()
        try:
            outputs = self._outputs(stopped, status)
        finally:
            self._log.close()
        return self._upload(outputs)

    def _keep(self) -> None:
        """Between two steps of the preparation: keep the lease, and obey the wish to cancel."""
        self._heart.beat_if_due()
        if self._lease.cancelled:
            raise JobCancelled

    def _fetch_module(self) -> None:
        """Download the module's archive and unpack it."""
        from pathlib import Path

        from mlapi.archives.canonical import unpack
        from mlapi.archives.limits import BadArchive

        module = self._job["module"]
        archive = os.path.join(self._place.path, "module.tar")
        promised = {"sha256": module["version"], "size": module["size"]}
        try:
            self._link.download("/module", archive, promised, self._keep)
            with open(archive, "rb") as source:
                unpack(source, Path(self._place.module))
        except Damaged as error:
            raise JobFailed(f"The module {module['name']!r} arrived damaged.") from error
        except BadArchive as error:
            raise JobFailed(f"The module {module['name']!r} cannot be unpacked: {error}") from error
        os.unlink(archive)
        self._keep()

    def _fetch_inputs(self) -> None:
        """Download the inputs, and describe them in input.json as MLsploit's modules expect it."""
        inputs = self._job["inputs"]
        for given in inputs:
            name = given["name"]
            try:
                plain_name(name, reserved="input.json")
            except ValueError as error:
                raise JobFailed(f"Invalid input name {name!r}. {error}") from error
            target = os.path.join(self._place.input, name)
            try:
                self._link.download(f"/inputs/{given['number']}", target, given, self._keep)
            except Damaged as error:
                raise JobFailed(f"Input {name!r} arrived damaged.") from error
        described = {
            "name": self._job["function"],
            "num_files": len(inputs),
            "files": [given["name"] for given in inputs],
            "options": self._job["arguments"],
            "tags": [given["tags"] for given in inputs],
        }
        with open(os.path.join(self._place.input, "input.json"), "x", encoding="utf-8") as out:
            json.dump(described, out)
        self._keep()

    def _start(self, python: str) -> Child:
        """Start the module's command; "python" means the one that runs modules."""
        program, *rest = self._job["command"]
        command = [python if program in ("python", "python3") else program, *rest]
        try:
            return Child(command, self._place.module, self._place.environment(python))
        except CannotStart as error:
            raise JobFailed(str(error)) from error

    def _watch(self, child: Child) -> Exception | None:
        """Wait for the end of the child, take in what it prints, and stop it when it must; say why it was."""
        limit = time.monotonic() + self._job["timeout"]
        stopped: Exception | None = None
        with selectors.DefaultSelector() as selector:
            for number in (child.output, child.ending):
                if number is not None:
                    selector.register(number, selectors.EVENT_READ)
            while not child.exited():
                ready = [key.fd for key, _ in selector.select(TICK)]
                if child.output in ready and self._take(child) == b"":
                    selector.unregister(child.output)
                if self._lease.over:
                    child.kill()
                    continue
                stopped = stopped or self._must_stop(limit)
                if stopped:
                    child.stop()
                    child.press()
        return stopped

    def _must_stop(self, limit: float) -> Exception | None:
        """Say why the child has to end now, if it has to."""
        if self._lease.cancelled:
            return JobCancelled()
        if time.monotonic() >= limit:
            return JobFailed(f"The function was stopped after its time limit of {self._job['timeout']:g} s.")
        return None

    def _take(self, child: Child) -> bytes | None:
        """Take in a piece of what the child prints."""
        data = child.read()
        if data:
            self._log.write(data)
        return data

    def _drain(self, child: Child, patience: float) -> None:
        """Take in what is left in the pipe, until it ends or patience does."""
        end = time.monotonic() + patience
        while (data := self._take(child)) != b"" and time.monotonic() < end:
            if data is None:
                time.sleep(0.005)

    def _outputs(self, stopped: Exception | None, status: int) -> Outputs:
        """Read what the function left, if it came to its end by itself and well."""
        if stopped or self._lease.cancelled:
            raise stopped or JobCancelled
        if status < 0:
            raise JobFailed(f"The function was killed by signal {_signal_name(-status)}.")
        if status:
            raise JobFailed(f"The function ended with exit status {status}.")
        try:
            outputs = read_outputs(self._place.output, [given["name"] for given in self._job["inputs"]])
        except BadOutput as error:
            raise JobFailed(str(error)) from error
        for name in outputs.ignored:
            line = f"[mlapi] Output {name!r} ignored: neither created, modified nor an input.\n"
            self._log.write(line.encode())
        return outputs

    def _upload(self, outputs: Outputs) -> dict[str, Any]:
        """Upload the outputs and return the report that names them."""
        numbers = {given["name"]: given["number"] for given in self._job["inputs"]}
        reported = []
        for output in outputs.files:
            if self._lease.cancelled:
                raise JobCancelled
            try:
                sha256 = self._link.upload(partial(outputs.open, output), output.size)
            except BadOutput as error:
                raise JobFailed(str(error)) from error
            except Refused as error:
                raise JobFailed(f"The output {output.name!r} was refused: {error}") from error
            made = {"name": output.name, "sha256": sha256, "tags": output.tags, "origin": output.origin}
            reported.append(made | {"input": None if output.origin == "created" else numbers[output.name]})
        return _report("FINISHED", None, outputs.metrics, reported)


def _signal_name(number: int) -> str:
    """Return a signal as people know it: number and name."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _report(
    status: str,
    reason: str | None,
    metrics: dict[str, Any] | None = None,
    outputs: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the body of a report."""
    short = reason if reason is None or len(reason) <= REASON_LIMIT else reason[: REASON_LIMIT - 1] + "…"
    report = {"status": status, "reason": short, "metrics": metrics or {}}
    return report | {"outputs": outputs or []} if status == "FINISHED" else report


def _carry(ticket: dict[str, str], link: Link, lease: Lease) -> None:
    """Carry the attempt from its first call to its report."""
    job = link.attempt()
    lease.set_length(job["lease"])
    heart = Heart(Link(ticket["attempt"], ticket["token"], lease), lease, job["heartbeat"])
    heart.first(link)
    with Workspace(ticket["scratch"]) as place:
        try:
            report = Run(link, lease, heart, job, place).result(ticket["python"])
        except JobFailed as error:
            report = _report("FAILED", str(error))
        except JobCancelled:
            report = _report("CANCELLED", "Cancelled while it ran.")
        try:
            link.report(report)
        except Refused as error:
            link.report(_report("FAILED", f"What the function left was refused: {error}"))
        heart.stop()


def run(ticket: dict[str, str]) -> int:
    """Do what a ticket says; return the number to exit with."""
    lease = Lease()
    signal.signal(signal.SIGTERM, lambda *_: lease.end("The runner was told to stop."))
    try:
        _carry(ticket, Link(ticket["attempt"], ticket["token"], lease), lease)
    except AttemptOver as over:
        sys.stderr.write(f"The runner leaves {ticket['attempt']}: {over}\n")
        return EXIT_LEFT
    except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the end of this job
        return _confess(ticket, lease, error)
    return EXIT_REPORTED


def _confess(ticket: dict[str, str], lease: Lease, error: Exception) -> int:
    """Report that the runner itself failed, over a connection that nothing else can be using."""
    words = getattr(error, "strerror", None) or str(error)
    reason = f"The runner failed: {type(error).__name__}: {words}"
    try:
        Link(ticket["attempt"], ticket["token"], lease).report(_report("FAILED", reason))
    except (AttemptOver, Refused):
        return EXIT_LEFT
    return EXIT_FAILED


def _ticket(line: bytes) -> dict[str, str] | None:
    """Read a ticket, or nothing where the line is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    wanted = ("attempt", "token", "scratch", "python")
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in wanted):
        return None
    return said if said["attempt"].startswith(("http://", "https://")) else None


def main() -> int:
    """Wait for a ticket on stdin and do what it says."""
    guard_self()
    # Every attempt needs these (the codec looks up hosts): a runner that waits for its ticket has them ready.
    import encodings.idna  # noqa: F401

    import mlapi.archives.canonical  # noqa: F401

    line = sys.stdin.buffer.readline()
    if not line.strip():
        return EXIT_REPORTED
    ticket = _ticket(line)
    if ticket is None:
        sys.stderr.write("The runner needs one line of JSON on stdin: attempt, token, scratch and python.\n")
        return EXIT_BAD_TICKET
    return run(ticket)


if __name__ == "__main__":
    sys.exit(main())
