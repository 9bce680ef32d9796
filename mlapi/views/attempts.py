"""Attempts: the endpoints of runners (`execution.runner`)."""

from functools import partial
from typing import TypedDict

from pyramid.response import Response

from mlapi.errors import AttemptOver
from mlapi.http.bodies import read_chunks, read_whole
from mlapi.http.downloads import download
from mlapi.http.request import Request
from mlapi.models import attempts as rules
from mlapi.models import logs
from mlapi.models.attempts import RETURNED
from mlapi.models.backoff import Retries
from mlapi.models.jobs import Status
from mlapi.models.outputs import Output
from mlapi.resources.attempts import (
    AttemptItem,
    AttemptLog,
    Heartbeat,
    InputItem,
    Inputs,
    ModuleArchive,
    Outputs,
    Report,
)
from mlapi.schemas import attempts as schemas
from mlapi.security import Permission
from mlapi.service import Expects, Service, uploaded_file
from mlapi.views import answers

attempt, heartbeat, log, outputs = Service(AttemptItem), Service(Heartbeat), Service(AttemptLog), Service(Outputs)
report, module_archive = Service(Report), Service(ModuleArchive)
inputs, input_file = Service(Inputs), Service(InputItem)

attempt.get(permission=Permission.READ)(answers.show)
inputs.get(permission=Permission.READ, schema=answers.listing(Inputs))(answers.page)

LOG = Expects(query=schemas.LogOffset(), raw=True, limit=lambda settings: settings.log_piece_limit)
REPORT = Expects(body=schemas.Report(), limit=lambda settings: settings.report_limit)


class HeartbeatDocument(TypedDict):
    """Whether cancellation is requested."""

    cancel: bool


class LogDocument(TypedDict):
    """The size of the log in bytes."""

    offset: int


class UploadDocument(TypedDict):
    """An uploaded output."""

    sha256: str
    size: int


class ReportDocument(TypedDict):
    """The status of the job after the attempt."""

    status: str


@module_archive.get(permission=Permission.REPORT)
def show_module(module_archive: ModuleArchive, request: Request) -> Response:
    """Download the canonical archive of the module."""
    row = module_archive.item.row
    return download(request.store, row.version, row.size, f"{row.module}.tar", request)


@input_file.get(permission=Permission.REPORT)
def show_input(input_file: InputItem, request: Request) -> Response:
    """Download an input file of the job."""
    row = input_file.row
    return download(request.store, row.sha256, row.size, row.name, request)


@heartbeat.post(permission=Permission.REPORT, schema=Expects(body=schemas.Heartbeat()))
def beat(heartbeat: Heartbeat, request: Request) -> HeartbeatDocument:
    """Renew the lease, and get whether cancellation is requested."""
    item = heartbeat.item
    first = item.row.fetched is None
    return {"cancel": rules.beat(request.db, item.fence, request.settings.job_lease, first=first)}


@log.put(permission=Permission.REPORT, schema=LOG)
def append(log: AttemptLog, request: Request) -> LogDocument:
    """Append to the log, at its current end."""
    settings, offset = request.settings, request.validated["query"]["offset"]
    piece = read_whole(request.body_file_raw, request.content_length, settings.log_piece_limit)
    return {"offset": logs.append(request.db, log.item.fence, offset, piece, settings.log_limit)}


@outputs.post(permission=Permission.REPORT, schema=Expects(raw=True, limit=uploaded_file))
def upload(outputs: Outputs, request: Request) -> UploadDocument:
    """Upload the content of an output file; the report turns it into a file."""
    fence = outputs.item.fence
    rules.hold(request.db, fence)
    request.pause_transaction()
    blob = request.store.put(read_chunks(request.body_file_raw), request.settings.upload_limit)
    rules.hand_in(request.db, fence, blob.sha256, blob.size)
    request.response.status_code = 201
    return {"sha256": blob.sha256, "size": blob.size}


@report.post(permission=Permission.REPORT, schema=REPORT)
def finish(report: Report, request: Request) -> ReportDocument:
    """Report the result, once: records outputs and metrics, and queues or cancels the dependent jobs.

    The status RETURNED hands the job back, which queues it again; `fault` is "worker" if the machine is the cause, and
    "service" if the service has not accepted the results. The same report again has the same response.
    """
    body, fence, db, settings = request.validated["body"], report.item.fence, request.db, request.settings
    retries = Retries.of(settings)
    if body["status"] == RETURNED:
        reason, fault = body["reason"] or "No reason was given.", body["fault"]
        digest = rules.digest_of(RETURNED, reason, fault)
        end = partial(rules.hand_back, db, fence, reason, fault, retries)
    else:
        outputs = [Output(**output) for output in body["outputs"]]
        failure = body["exit_code"], body["failure"]
        ending = rules.Report(Status(body["status"]), body["reason"], body["metrics"], outputs, *failure)
        digest, end = ending.digest, partial(rules.report, db, fence, ending, settings.tags_limit, retries)
    try:
        status = end()
    except AttemptOver:
        return {"status": rules.repeated(db, fence, digest)}
    rules.record_usage(db, fence, body["usage"])
    return {"status": status}
