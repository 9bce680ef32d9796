"""What a runner asks and says: the contract of `execution.runner`."""

from typing import Any

from mlapi.http.bodies import read_chunks, read_whole
from mlapi.http.downloads import download
from mlapi.models import attempts as rules
from mlapi.models.attempts import Output
from mlapi.models.jobs import Status
from mlapi.resources.attempts import (
    AttemptItem,
    AttemptLog,
    Heartbeat,
    InputItem,
    ModuleArchive,
    Outputs,
    Report,
)
from mlapi.schemas import attempts as schemas
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

attempt, heartbeat, log, outputs = (
    Service(AttemptItem),
    Service(Heartbeat),
    Service(AttemptLog),
    Service(Outputs),
)
report, module_archive, input_file = Service(Report), Service(ModuleArchive), Service(InputItem)

attempt.get(permission=Permission.READ)(answers.show)


@module_archive.get(permission=Permission.REPORT)
def show_module(module_archive: ModuleArchive, request: Any) -> Any:
    """Download the module's canonical archive."""
    row = above(module_archive).row
    return download(request.registry.store, row.digest, row.size, f"{row.module}.tar", request)


@input_file.get(permission=Permission.REPORT)
def show_input(input_file: InputItem, request: Any) -> Any:
    """Download one of the job's input files."""
    row = input_file.row
    return download(request.registry.store, row.sha256, row.size, row.name, request)


@heartbeat.post(permission=Permission.REPORT, schema=Expects(body=schemas.Heartbeat()))
def beat(heartbeat: Heartbeat, request: Any) -> dict[str, Any]:
    """Say that the runner lives, which renews its lease; hear whether the job is wished to stop."""
    return {"cancel": rules.beat(request.db, above(heartbeat).fence, request.registry.mlapi.job_lease)}


@log.put(permission=Permission.REPORT, schema=Expects(query=schemas.LogOffset()))
def append(log: AttemptLog, request: Any) -> dict[str, Any]:
    """Append a piece to the log at its present end."""
    settings, offset = request.registry.mlapi, request.validated["query"]["offset"]
    piece = read_whole(request.body_file_raw, request.content_length, settings.body_limit)
    return {"offset": rules.append_log(request.db, above(log).fence, offset, piece, settings.log_limit)}


@outputs.post(permission=Permission.REPORT)
def upload(outputs: Outputs, request: Any) -> dict[str, Any]:
    """Upload the bytes of an output; the report makes a file of them."""
    fence = above(outputs).fence
    rules.hold(request.db, fence)
    request.pause_transaction()
    blob = request.registry.store.put(read_chunks(request.body_file_raw), request.registry.mlapi.upload_limit)
    rules.hand_in(request.db, fence, blob.sha256, blob.size)
    request.response.status_code = 201
    return {"sha256": blob.sha256, "size": blob.size}


@report.post(permission=Permission.REPORT, schema=Expects(body=schemas.Report()))
def end(report: Report, request: Any) -> dict[str, Any]:
    """Say how the attempt ended, once: outputs and metrics are recorded, and what comes next is released."""
    body = request.validated["body"]
    told = rules.Report(
        Status(body["status"]), body["reason"], body["metrics"], [Output(**each) for each in body["outputs"]]
    )
    return {"status": rules.report(request.db, above(report).fence, told)}


def above(node: Any) -> AttemptItem:
    """The attempt whose runner speaks."""
    attempt: AttemptItem = node.__parent__
    return attempt
