"""Runs: list, start, show, cancel, delete."""

from typing import Any

from mlapi.models import runs as rules
from mlapi.models.deletion import delete_runs
from mlapi.resources.base import references
from mlapi.resources.files import FileItem
from mlapi.resources.runs import AllRuns, RunCancel, RunItem, Runs
from mlapi.schemas.pages import AllRunsPage, Page
from mlapi.schemas.runs import NewRun
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

runs, run, run_cancel, all_runs = Service(Runs), Service(RunItem), Service(RunCancel), Service(AllRuns)

runs.get(permission=Permission.READ, schema=Expects(query=Page()))(answers.page)
run.get(permission=Permission.READ)(answers.show)
all_runs.get(permission=Permission.READ, schema=Expects(query=AllRunsPage()))(answers.page)


@runs.post(permission=Permission.WRITE, schema=Expects(body=NewRun()))
def create(runs: Runs, request: Any) -> dict[str, Any]:
    """Start a run over files; the same Idempotency-Key again answers with the same run."""
    keys = runs.keys
    files = references(FileItem, request.validated["body"]["files"], "files", user=keys["user"])
    made, new = rules.start(request.db, runs.pipeline, files, answers.idempotency_key(request))
    return answers.created(runs[str(made.id)], request, new)


@run.delete(permission=Permission.WRITE)
def delete(run: RunItem, request: Any) -> dict[str, Any]:
    """Delete a run that is over, its jobs and the files that these made."""
    return answers.deleted(**delete_runs(request.db, [run.id]))


@run_cancel.post(permission=Permission.WRITE)
def cancel(run_cancel: RunCancel, request: Any) -> RunItem:
    """Cancel all jobs of a run that are not over."""
    run: Any = run_cancel.__parent__
    rules.cancel(request.db, run.id)
    return run.fresh()  # type: ignore[no-any-return]
