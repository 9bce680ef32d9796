"""Jobs: list, show, cancel, retry."""

from mlapi.http.request import Request
from mlapi.models import progress, retries
from mlapi.resources.jobs import AllJobs, JobCancel, JobDocument, JobItem, JobRetry, Jobs
from mlapi.security import Permission
from mlapi.service import Service
from mlapi.views import answers

jobs, job, all_jobs = Service(Jobs), Service(JobItem), Service(AllJobs)
job_cancel, job_retry = Service(JobCancel), Service(JobRetry)

jobs.get(permission=Permission.READ, schema=answers.listing(Jobs))(answers.page)
job.get(permission=Permission.READ)(answers.show)
all_jobs.get(permission=Permission.READ, schema=answers.listing(AllJobs))(answers.page)


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
