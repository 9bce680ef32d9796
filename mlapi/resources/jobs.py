"""Jobs of a run, and everybody's jobs."""

from typing import Any

import sqlalchemy as sa

from mlapi.models import (
    Attempt,
    File,
    Function,
    Job,
    JobInput,
    JobParent,
    Module,
    ModuleVersion,
    Pipeline,
    Run,
    User,
)
from mlapi.resources.base import Collection, Everyones, Item, Node
from mlapi.resources.files import FileItem
from mlapi.resources.modules import VersionFunction
from mlapi.resources.tasks import TaskItem

jobs, runs, pipelines, users = (each.__table__.c for each in (Job, Run, Pipeline, User))
functions, versions, modules = (each.__table__.c for each in (Function, ModuleVersion, Module))


class JobLog(Node):
    """The log of a job's present attempt."""


class JobCancel(Node):
    """Where one asks for a job to stop."""


class JobItem(Item):
    """A job: one task in one run."""

    key = "job"
    children = {"log": JobLog, "cancel": JobCancel}
    columns = (
        jobs.id,
        jobs.run_id,
        jobs.position,
        jobs.status,
        jobs.reason,
        jobs.attempt,
        jobs.created,
        jobs.queued,
        jobs.started,
        jobs.ended,
        runs.pipeline_id,
        users.name.label("owner"),
        functions.name.label("function"),
        versions.digest,
        modules.name.label("module"),
    )
    details = (jobs.task_id, jobs.arguments, jobs.metrics, jobs.timeout, jobs.cancel_requested)
    source = (
        sa.join(Job.__table__, Run.__table__, jobs.run_id == runs.id)
        .join(User.__table__, jobs.owner_id == users.id)
        .join(Function.__table__, jobs.function_id == functions.id)
        .join(ModuleVersion.__table__, functions.version_id == versions.id)
        .join(Module.__table__, versions.module_id == modules.id)
    )
    by = jobs.id
    within = jobs.run_id == runs.id

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A job without its arguments and files, as in a list."""
        # Unpacked at once: a list has a hundred of these, and looking up each column by name takes longer than SQL.
        (
            number,
            run_number,
            position,
            status,
            reason,
            attempt,
            created,
            queued,
            started,
            ended,
            pipeline,
            owner,
            function,
            version,
            module,
        ) = row[: len(cls.columns)]
        run = cls.holder.link(request, user=owner, pipeline=pipeline, run=run_number)
        return {
            "id": number,
            "url": f"{run}/jobs/{number}",
            "run": run,
            "position": position,
            "function": VersionFunction.link(request, module=module, version=version, function=function),
            "status": status,
            "reason": reason,
            "attempt": attempt,
            "created": created,
            "queued": queued,
            "started": started,
            "ended": ended,
        }

    def __json__(self, request: Any) -> dict[str, Any]:
        row = self.row
        described = self.describe(row, request)
        here = {"user": row.owner, "pipeline": row.pipeline_id}
        found: dict[str, list[int]] = {"after": [], "inputs": [], "outputs": []}
        for relation, linked in request.db.execute(_LINKED, {"job": row.id}):
            found[relation].append(linked)
        siblings = described["run"] + "/jobs/"
        return described | {
            "task": row.task_id and TaskItem.link(request, **here, task=row.task_id),
            "after": [f"{siblings}{linked}" for linked in found["after"]],
            "arguments": row.arguments,
            "timeout": row.timeout,
            "cancel_requested": row.cancel_requested,
            "inputs": [FileItem.link(request, user=row.owner, file=linked) for linked in found["inputs"]],
            "outputs": [FileItem.link(request, user=row.owner, file=linked) for linked in found["outputs"]],
            "metrics": row.metrics,
            "log": described["url"] + "/log",
        }

    @property
    def current_attempt(self) -> int | None:
        """The id of the attempt whose log is the job's, or None before the first."""
        query = sa.select(Attempt.id).where(Attempt.job_id == self.id, Attempt.number == self.row.attempt)
        return self.request.db.scalar(query)  # type: ignore[no-any-return]


def _linked(relation: str, linked: Any, order: Any, mine: Any) -> Any:
    condition = mine == sa.bindparam("job")
    return sa.select(sa.literal_column(f"'{relation}'").label("relation"), linked.label("linked"), order).where(
        condition
    )


_order = "position"
_links = sa.union_all(
    _linked(
        "after",
        JobParent.__table__.c.parent_id,
        JobParent.__table__.c.parent_id.label(_order),
        JobParent.__table__.c.job_id,
    ),
    _linked(
        "inputs",
        JobInput.__table__.c.file_id,
        JobInput.__table__.c.number.label(_order),
        JobInput.__table__.c.job_id,
    ),
    _linked("outputs", File.__table__.c.id, File.__table__.c.id.label(_order), File.__table__.c.job_id),
).subquery()
_LINKED = sa.select(_links.c.relation, _links.c.linked).order_by(_links.c.position)
"""What a job is linked with: the jobs before it, its inputs and its outputs, each in order."""


class Jobs(Collection):
    """The jobs of a run, in the order of their tasks."""

    item = JobItem
    newest_first = False
    mine = jobs.run_id
    filters = {"status": lambda bound: jobs.status == bound}


class AllJobs(Everyones):
    """The jobs that the caller may see, newest first."""

    item = JobItem
    mine = jobs.owner_id
    filters = {
        "status": lambda bound: jobs.status == bound,
        "owner": lambda bound: users.name == bound,
        "module": lambda bound: modules.name == bound,
        "function": lambda bound: functions.name == bound,
    }
