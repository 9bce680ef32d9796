"""Jobs: list, show, read the log, cancel."""

from typing import Any

from pyramid.response import Response

from mlapi.models import jobs as rules
from mlapi.models.attempts import read_log
from mlapi.resources.jobs import AllJobs, JobCancel, JobItem, JobLog, Jobs
from mlapi.schemas.attempts import LogFrom
from mlapi.schemas.pages import AllJobsPage, JobsPage
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

jobs, job, all_jobs = Service(Jobs), Service(JobItem), Service(AllJobs)
job_log, job_cancel = Service(JobLog), Service(JobCancel)

jobs.get(permission=Permission.READ, schema=Expects(query=JobsPage()))(answers.page)
job.get(permission=Permission.READ)(answers.show)
all_jobs.get(permission=Permission.READ, schema=Expects(query=AllJobsPage()))(answers.page)


@job_log.get(permission=Permission.READ, schema=Expects(query=LogFrom()))
def show_log(job_log: JobLog, request: Any) -> Response:
    """Read the log of the job's present attempt, from `offset` bytes on."""
    job: Any = job_log.__parent__
    attempt, offset = job.current_attempt, request.validated["query"]["offset"]
    text = b"" if attempt is None else read_log(request.db, attempt, offset)
    return Response(body=text, content_type="text/plain", charset="utf-8")


@job_cancel.post(permission=Permission.WRITE)
def cancel(job_cancel: JobCancel, request: Any) -> JobItem:
    """Cancel a job: at once where it waits, within two seconds where it runs."""
    job: Any = job_cancel.__parent__
    rules.cancel(request.db, job.id)
    return job.fresh()  # type: ignore[no-any-return]
