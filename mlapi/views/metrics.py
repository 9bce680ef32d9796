"""Metrics: those of a job and of its attempts, and the endpoint of runners that records them."""

from typing import TypedDict

from mlapi.http.request import Request
from mlapi.models import attempts, metrics
from mlapi.resources.attempts import AttemptMetrics
from mlapi.resources.job_metrics import JobAttemptMetrics, JobMetrics, Metrics, MetricsDocument
from mlapi.schemas import metrics as schemas
from mlapi.schemas.attempts import LogOffset
from mlapi.security import Permission
from mlapi.service import Expects, Service

job_metrics, job_attempt_metrics = Service(JobMetrics), Service(JobAttemptMetrics)
attempt_metrics = Service(AttemptMetrics)

SERIES = Expects(query=schemas.Series())
POINTS = Expects(query=LogOffset(), body=schemas.Points(), limit=lambda settings: settings.report_limit)


class PointsDocument(TypedDict):
    """The number of points that the attempt has recorded."""

    offset: int


@job_metrics.get(permission=Permission.READ, schema=SERIES)
@job_attempt_metrics.get(permission=Permission.READ, schema=SERIES)
def show(series: Metrics, request: Request) -> MetricsDocument:
    """List the metrics of an attempt, for a job of its current one, with their last points.

    With `name`, only the metric of that name, with its points: follow it by `after`, the `number` of the last point.
    Of the points after the one with the number `after`, at most `points` are listed: if there are more, every second,
    third, … of them, with the last one. The numbers in the metrics of the final report have no step.
    """
    query = request.validated["query"]
    return series.document(query.get("name"), query["after"], query["points"])


@attempt_metrics.put(permission=Permission.REPORT, schema=POINTS)
def append(attempt_metrics: AttemptMetrics, request: Request) -> PointsDocument:
    """Record points after the `offset` ones that the attempt has; 409 with the actual `offset` if it has others."""
    fence, offset = attempt_metrics.item.fence, request.validated["query"]["offset"]
    attempts.hold(request.db, fence)
    points = request.validated["body"]["points"]
    return {"offset": metrics.append(request.db, fence.id, offset, points, request.settings.points_limit)}
