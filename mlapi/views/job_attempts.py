"""Attempts of jobs: list, show; and logs of jobs and of their attempts: read, follow."""

from itertools import chain

from pyramid.response import Response

from mlapi.http.downloads import RangeNotSatisfiable, span
from mlapi.http.request import Request
from mlapi.models import logs
from mlapi.resources.job_attempts import JobAttemptItem, JobAttemptLog, JobAttempts
from mlapi.resources.jobs import JobLog
from mlapi.schemas.attempts import LogFrom
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

attempts, attempt = Service(JobAttempts), Service(JobAttemptItem)
job_log, attempt_log = Service(JobLog), Service(JobAttemptLog)

LOG = Expects(query=LogFrom())

attempts.get(permission=Permission.READ, schema=answers.listing(JobAttempts))(answers.page)
attempt.get(permission=Permission.READ)(answers.show)


@job_log.get(permission=Permission.READ, schema=LOG)
@attempt_log.get(permission=Permission.READ, schema=LOG)
def show_log(resource: JobLog | JobAttemptLog, request: Request) -> Response:
    """Read the log of an attempt, for a job of its current one, from byte `offset` on, or a `Range` of that.

    `Range: bytes=N-` follows a log: 206 with what is new, 416 while nothing is.
    """
    log, offset = resource.log, request.validated["query"]["offset"]
    size = 0 if log is None else max(0, log.size - offset)
    part = span(request.headers.get("Range", ""), size) if request.method == "GET" else None
    if part is not None and not part:
        raise RangeNotSatisfiable(size)
    response = Response(content_type="text/plain", charset="utf-8")
    response.headers["Accept-Ranges"] = "bytes"
    if part is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    sent = range(size) if part is None else part
    if log is not None:
        _send(response, request, log.attempt, log.sha256, range(offset + sent.start, offset + sent.stop))
    return response


def _send(response: Response, request: Request, attempt: int, sha256: str | None, part: range) -> None:
    """Set the body of a response to a part of a log; a large part is read while it is sent."""
    first = b"" if sha256 else logs.read(request.reader, attempt, part.start, part.stop)
    if len(first) == len(part):
        response.body = first
        return
    rest = logs.chunks(request.reading, request.store, attempt, part.start + len(first), part.stop)
    response.app_iter = chain([first], rest) if sha256 is None else request.store.open(sha256, part.start, part.stop)
    response.content_length = len(part)
