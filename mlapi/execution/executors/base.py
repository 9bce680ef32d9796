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
        """Start a runner with this ticket."""

    def cancel(self, attempt_id: int) -> None:
        """Stop a runner. This never raises, also if the runner is already stopped or has ended."""

    def poll(self) -> dict[int, int]:
        """Return the attempts that ended since the last poll, with the exit codes of their runners."""

    def close(self) -> None:
        """Stop watching. Running attempts continue."""
