"""Metrics: those of a job, and the endpoint of runners that records them."""

from typing import TypedDict

from mlapi.http.request import Request
from mlapi.models import attempts, metrics
from mlapi.resources.attempts import AttemptMetrics
from mlapi.resources.job_metrics import JobMetrics, MetricsDocument
from mlapi.schemas import metrics as schemas
from mlapi.schemas.attempts import LogOffset
from mlapi.security import Permission
from mlapi.service import Expects, Service

job_metrics, attempt_metrics = Service(JobMetrics), Service(AttemptMetrics)

POINTS = Expects(query=LogOffset(), body=schemas.Points(), limit=lambda settings: settings.report_limit)


class PointsDocument(TypedDict):
    """The number of points that the attempt has recorded."""

    offset: int


@job_metrics.get(permission=Permission.READ, schema=Expects(query=schemas.Series()))
def show(job_metrics: JobMetrics, request: Request) -> MetricsDocument:
    """List the metrics of a job with their last points; with `name`, also the points of that one.

    Of the points after the one with the number `after`, at most `points` are listed: if there are more, every second,
    third, … of them, with the last one. The numbers in the metrics of the final report have no step.
    """
    query = request.validated["query"]
    return job_metrics.document(query.get("name"), query["after"], query["points"])


@attempt_metrics.put(permission=Permission.REPORT, schema=POINTS)
def append(attempt_metrics: AttemptMetrics, request: Request) -> PointsDocument:
    """Record points after the `offset` ones that the attempt has; 409 with the actual `offset` if it has others."""
    fence, offset = attempt_metrics.item.fence, request.validated["query"]["offset"]
    attempts.hold(request.db, fence)
    points = request.validated["body"]["points"]
    return {"offset": metrics.append(request.db, fence.id, offset, points, request.settings.points_limit)}
