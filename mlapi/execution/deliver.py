"""The last phase of an attempt: uploading the log and the outputs, and the report."""

from __future__ import annotations

import json
from functools import partial

from mlapi.execution.errors import SERVICE, JobFailed, JobReturned, Refused, Rejected
from mlapi.execution.outputs import BadOutput, Outputs, read_outputs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.client import Client
    from mlapi.execution.contract import Attempt, Output, Report
    from mlapi.execution.log import Log
    from mlapi.execution.workspace import Workspace

UNLIMITED = 2**63
"""The limit of a service that names none."""


def collect(attempt: Attempt, workspace: Workspace, log: Log) -> Outputs:
    """Read the outputs of a function, and log the files that are ignored."""
    try:
        outputs = read_outputs(workspace.output, [file["name"] for file in attempt["inputs"]])
    except BadOutput as error:
        raise JobFailed(str(error)) from error
    for name in outputs.ignored:
        log.note(f"Output {name!r} ignored: neither created, modified nor an input.")
    _check_limits(attempt, outputs)
    return outputs


def _check_limits(attempt: Attempt, outputs: Outputs) -> None:
    """Raise `JobFailed` for outputs whose report the service would reject, before their files are uploaded."""
    limit = attempt.get("metrics_limit", UNLIMITED)
    if _size(outputs.metrics) > limit:
        raise JobFailed(f"The metrics are larger than {limit} bytes.")
    limit = attempt.get("tags_limit", UNLIMITED)
    inherited = {file["name"]: file["tags"] for file in attempt["inputs"]}
    for file in outputs.files:
        tags = {**inherited[file.name], **file.tags} if file.origin == "unchanged" else file.tags
        if _size(tags) > limit:
            raise JobFailed(f"The tags of output {file.name!r} are larger than {limit} bytes.")


def _size(document: object) -> int:
    """Return the size of a JSON document in bytes."""
    return len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def check_log(log: Log, patience: float) -> None:
    """Raise `JobReturned` if the service refused the log, which it may accept from another attempt."""
    if isinstance(log.problem, Refused):
        raise JobReturned(f"The log was refused for {patience:g} s: {log.problem}", SERVICE)


def upload(client: Client, attempt: Attempt, outputs: Outputs, patience: float) -> Report:
    """Upload the outputs, and return the report of a finished attempt."""
    numbers = {file["name"]: file["number"] for file in attempt["inputs"]}
    uploaded: list[Output] = []
    for file in outputs.files:
        try:
            sha256 = client.upload(partial(outputs.open, file), file.size)
        except BadOutput as error:
            raise JobFailed(str(error)) from error
        except Rejected as error:
            raise JobFailed(f"Output {file.name!r} was rejected: {error}") from error
        except Refused as error:
            raise JobReturned(f"Output {file.name!r} was refused for {patience:g} s: {error}", SERVICE) from error
        number = None if file.origin == "created" else numbers[file.name]
        uploaded.append(
            {"name": file.name, "sha256": sha256, "tags": file.tags, "origin": file.origin, "input": number}
        )
    report: Report = {"status": "FINISHED", "reason": None, "metrics": outputs.metrics, "outputs": uploaded}
    limit = attempt.get("report_limit", UNLIMITED)
    if len(json.dumps(report)) > limit:
        raise JobFailed(f"The report, with metrics and the tags of all outputs, is larger than {limit} bytes.")
    return report
