"""The last phase of an attempt: uploading the outputs, and the report."""

from __future__ import annotations

from functools import partial

from mlapi.execution.errors import JobCancelled, JobFailed, Rejected
from mlapi.execution.outputs import BadOutput, Outputs, read_outputs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.client import Client
    from mlapi.execution.contract import Attempt, Output, Report
    from mlapi.execution.lease import Lease
    from mlapi.execution.log import Log
    from mlapi.execution.workspace import Workspace

REASON_LIMIT = 1000
"""The maximum number of characters of a reason."""


def collect(attempt: Attempt, workspace: Workspace, log: Log) -> Outputs:
    """Read the outputs of a function, and log the files that are ignored."""
    try:
        outputs = read_outputs(workspace.output, [file["name"] for file in attempt["inputs"]])
    except BadOutput as error:
        raise JobFailed(str(error)) from error
    for name in outputs.ignored:
        log.write(f"[mlapi] Output {name!r} ignored: neither created, modified nor an input.\n".encode())
    return outputs


def upload(client: Client, lease: Lease, attempt: Attempt, outputs: Outputs) -> Report:
    """Upload the outputs, and return the report of a finished attempt."""
    numbers = {file["name"]: file["number"] for file in attempt["inputs"]}
    uploaded: list[Output] = []
    for file in outputs.files:
        if lease.cancelled:
            raise JobCancelled
        try:
            sha256 = client.upload(partial(outputs.open, file), file.size)
        except BadOutput as error:
            raise JobFailed(str(error)) from error
        except Rejected as error:
            raise JobFailed(f"Output {file.name!r} was rejected: {error}") from error
        number = None if file.origin == "created" else numbers[file.name]
        uploaded.append(
            {"name": file.name, "sha256": sha256, "tags": file.tags, "origin": file.origin, "input": number}
        )
    return {"status": "FINISHED", "reason": None, "metrics": outputs.metrics, "outputs": uploaded}


def unsuccessful(status: str, reason: str) -> Report:
    """Return the report of an attempt that failed or was cancelled."""
    if len(reason) > REASON_LIMIT:
        reason = reason[: REASON_LIMIT - 1] + "…"
    return {"status": status, "reason": reason, "metrics": {}}
