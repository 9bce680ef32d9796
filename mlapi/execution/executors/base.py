"""The interface of executors. An executor starts, stops and watches runners; it never changes the state of a job."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Ticket:
    """The order to run one attempt: its URL, and a token that is valid for this attempt only."""

    attempt_id: int
    url: str
    token: str = field(repr=False)


class Executor(Protocol):
    """A place where runners run: this machine, or others."""

    def submit(self, ticket: Ticket) -> None:
        """Have a runner started with this ticket, or raise `OSError`."""

    def adopt(self, attempt_id: int) -> bool | None:
        """Watch the runner of an attempt that an earlier process started, and return whether it is running.

        Returns None if nothing is known of the attempt, for example because its runner has not begun to work.
        """

    def kill(self, attempt_id: int) -> bool:
        """Kill a runner, its function, and what they have started, and return whether nothing of them is left.

        This never raises, also if the runner has ended, is unknown, or was started by an earlier process.
        """

    def poll(self) -> dict[int, int | OSError | None]:
        """Return the attempts that ended since the last poll, with the exit codes of their runners, if known.

        Instead of the exit code of a runner that could not be started, the error is returned.
        """

    def descriptors(self) -> list[int]:
        """Return descriptors, one of which is readable when `poll` has something to return."""

    def close(self) -> None:
        """Stop watching. Running attempts continue."""
