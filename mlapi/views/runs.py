"""Runs: list, start, show, cancel, retry, rerun, delete."""

from typing import Any, cast

from mlapi.http.request import Request
from mlapi.models import reruns, retries
from mlapi.models import runs as rules
from mlapi.models.combinations import Axis
from mlapi.models.deletion import delete_run
from mlapi.models.dependencies import Dependency
from mlapi.models.plans import KEYS, JobChanges, RunOptions, TaskOfRun
from mlapi.resources.grids import GridDocument, GridItem
from mlapi.resources.runs import AllRuns, RunCancel, RunDocument, RunItem, RunRerun, RunRetry, Runs
from mlapi.schemas.headers import Idempotency
from mlapi.schemas.runs import NewRun, OfAllJobs, Rerun
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

runs, run, all_runs = Service(Runs), Service(RunItem), Service(AllRuns)
run_cancel, run_retry, run_rerun = Service(RunCancel), Service(RunRetry), Service(RunRerun)

runs.get(permission=Permission.READ, schema=answers.listing(Runs))(answers.page)
run.get(permission=Permission.READ)(answers.show)
all_runs.get(permission=Permission.READ, schema=answers.listing(AllRuns))(answers.page)


@runs.post(permission=Permission.WRITE, schema=Expects(body=NewRun(), headers=Idempotency()))
def create(runs: Runs, request: Request) -> RunDocument | GridDocument:
    """Start a run over files, or with `grid`, one for each combination. A repeated `Idempotency-Key` starts nothing.

    With `depends_on`, its first jobs wait for these runs and jobs.
    """
    key, body = request.validated["headers"]["Idempotency-Key"], request.validated["body"]
    if body["grid"]:
        axes = [Axis(**axis) for axis in body["grid"]]
        grid, new = rules.start_grid(request.db, runs.parent.id, body["files"], axes, key, options_of(body))
        return answers.created(cast("GridItem", runs.parent["grids"][str(grid.id)]), request, new)
    run, new = rules.start(request.db, runs.parent.id, body["files"], key, options_of(body))
    return answers.created(runs[str(run.id)], request, new)


def options_of(body: dict[str, Any]) -> RunOptions:
    """The options in the body of a run, or of a rerun, which names jobs by their positions instead of tasks."""
    field = "jobs" if "jobs" in body else "tasks"
    key, _ = KEYS[field]
    parts = [TaskOfRun(part.pop(key), cast("JobChanges", part)) for part in map(dict, body[field])]
    changes = cast("JobChanges", {name: body[name] for name in OfAllJobs.names if name in body})
    return RunOptions(changes, parts, [Dependency(*dependency) for dependency in body["depends_on"]], field)


@run.delete(permission=Permission.WRITE)
def delete(run: RunItem, request: Request) -> answers.Deletion:
    """Delete a run that has ended, with its jobs and their output files."""
    return answers.deletion(**delete_run(request.db, run.id))


@run_cancel.post(permission=Permission.WRITE)
def cancel(run_cancel: RunCancel, request: Request) -> RunDocument:
    """Cancel all jobs of a run that have not ended."""
    run = run_cancel.item
    rules.cancel(request.db, run.id)
    return run.reload().document()


@run_retry.post(permission=Permission.WRITE)
def retry(run_retry: RunRetry, request: Request) -> RunDocument:
    """Retry all jobs of an ended run that failed or were cancelled, and what was cancelled after them in other runs."""
    run = run_retry.item
    retries.retry_run(request.db, run.id)
    return run.reload().document()


@run_rerun.post(permission=Permission.WRITE, schema=Expects(body=Rerun(), headers=Idempotency()))
def rerun(run_rerun: RunRerun, request: Request) -> RunDocument:
    """Start a new run of the jobs that this run has, whatever has become of the pipeline.

    `jobs` changes the arguments, the queue and the reuse of single jobs, by their positions.
    """
    key, body, run = request.validated["headers"]["Idempotency-Key"], request.validated["body"], run_rerun.item
    started, new = reruns.rerun(request.db, run.id, body["files"], key, options_of(body))
    return answers.created(RunItem(started.id, cast("Runs", run.__parent__), request), request, new)
