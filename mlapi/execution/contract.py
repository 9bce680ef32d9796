"""The types of the JSON documents that runner and server exchange.

For type checking only: the runner does not import this module, because `typing` would slow down its start.
"""

from typing import TypedDict


class Ticket(TypedDict):
    """The line on a runner's stdin."""

    attempt: str
    token: str
    scratch: str
    python: str


class Module(TypedDict):
    """A module version. `version` is the SHA-256 of its archive."""

    name: str
    version: str
    size: int


class Input(TypedDict):
    """An input file of a job."""

    number: int
    name: str
    sha256: str
    size: int
    tags: dict[str, object]


class Attempt(TypedDict):
    """An attempt at a job. `lease`, `heartbeat` and `timeout` are in seconds, `log_limit` is in bytes."""

    lease: float
    heartbeat: float
    timeout: float
    log_limit: int
    function: str
    arguments: dict[str, object]
    command: list[str]
    module: Module
    inputs: list[Input]


class Output(TypedDict):
    """An uploaded output. `input` is the number of the input it replaces or repeats, and None for a new file."""

    name: str
    sha256: str
    tags: dict[str, object]
    origin: str
    input: int | None


class Report(TypedDict, total=False):
    """The result of an attempt. Only a finished attempt has `outputs`."""

    status: str
    reason: str | None
    metrics: dict[str, object]
    outputs: list[Output]
