"""Jobs: list, show, read the log, cancel, retry."""

from pyramid.response import Response

from mlapi.http.request import Request
from mlapi.models import progress, retries
from mlapi.models.attempts import read_log
from mlapi.resources.jobs import AllJobs, JobCancel, JobDocument, JobItem, JobLog, JobRetry, Jobs
from mlapi.schemas.attempts import LogFrom
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

jobs, job, all_jobs = Service(Jobs), Service(JobItem), Service(AllJobs)
job_log, job_cancel, job_retry = Service(JobLog), Service(JobCancel), Service(JobRetry)

jobs.get(permission=Permission.READ, schema=answers.listing(Jobs))(answers.page)
job.get(permission=Permission.READ)(answers.show)
all_jobs.get(permission=Permission.READ, schema=answers.listing(AllJobs))(answers.page)


@job_log.get(permission=Permission.READ, schema=Expects(query=LogFrom()))
def show_log(job_log: JobLog, request: Request) -> Response:
    """Read the log of the current attempt, starting at byte `offset`."""
    attempt, offset = job_log.item.current_attempt, request.validated["query"]["offset"]
    text = b"" if attempt is None else read_log(request.reader, attempt, offset)
    return Response(body=text, content_type="text/plain", charset="utf-8")


@job_cancel.post(permission=Permission.WRITE)
def cancel(job_cancel: JobCancel, request: Request) -> JobDocument:
    """Cancel a job: immediately if it is waiting, within two seconds if it is running."""
    job = job_cancel.item
    progress.cancel(request.db, job.id)
    return job.reload().document()


@job_retry.post(permission=Permission.WRITE)
def retry(job_retry: JobRetry, request: Request) -> JobDocument:
    """Retry a job that failed or was cancelled, and what was cancelled after it."""
    job = job_retry.item
    retries.retry_job(request.db, job.id)
    return job.reload().document()
