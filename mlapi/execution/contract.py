"""The types of the JSON documents that runner and server exchange.

For type checking only: the runner does not import this module, because `typing` would slow down its start.
"""

from typing import NotRequired, TypedDict


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


class Inputs(TypedDict):
    """A page of the inputs of a job, and the URL of the next page."""

    items: list[Input]
    next: str | None


class Attempt(TypedDict):
    """An attempt at a job. `lease`, `heartbeat`, `timeout` and `delivery_timeout` are in seconds, limits in bytes.

    `inputs` is the first page of the inputs, and `more_inputs` the URL of the second. A service of an older version has
    not all limits, and a single page.
    """

    lease: float
    heartbeat: float
    timeout: float
    delivery_timeout: NotRequired[float]
    log_limit: int
    log_piece_limit: NotRequired[int]
    report_limit: NotRequired[int]
    metrics_limit: NotRequired[int]
    tags_limit: NotRequired[int]
    points_limit: NotRequired[int]
    names_limit: NotRequired[int]
    function: str
    arguments: dict[str, object]
    command: list[str]
    module: Module
    inputs: list[Input]
    more_inputs: NotRequired[str | None]


class Output(TypedDict):
    """An uploaded output. `input` is the number of the input it replaces or repeats, and None for a new file."""

    name: str
    sha256: str
    tags: dict[str, object]
    origin: str
    input: int | None


class Point(TypedDict):
    """A value of a metric; `time` is in seconds since 1970."""

    name: str
    value: float
    step: int | None
    time: float


class Usage(TypedDict):
    """What a function used, with all its processes: the memory of the largest one in bytes, and seconds."""

    peak_memory: int
    cpu_seconds: float
    wall_seconds: float


class Report(TypedDict, total=False):
    """The result of an attempt. Only a finished attempt has `outputs`; only one that hands its job back has `fault`.

    `exit_code` is that of the function: 128 and the number of the signal if one killed it, as shells say. `failure` is
    "timeout" if a time limit ended the attempt. `exit_code` and `usage` are missing if the function was not started.
    """

    status: str
    reason: str | None
    fault: str | None
    exit_code: int | None
    failure: str | None
    metrics: dict[str, object]
    outputs: list[Output]
    usage: Usage
