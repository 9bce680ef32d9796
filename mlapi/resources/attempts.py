"""Attempts: the one branch of the tree in which runners live, each in its own."""

from typing import Any

import sqlalchemy as sa
from pyramid.authorization import Allow

from mlapi.models import Attempt, File, Function, Job, JobInput, Module, ModuleVersion, Run, User
from mlapi.models.attempts import Fence
from mlapi.models.jobs import Status
from mlapi.resources.base import Collection, Item, Node, must_be_known
from mlapi.resources.jobs import JobItem
from mlapi.security import Permission, Use

attempts, jobs, runs, users = (each.__table__.c for each in (Attempt, Job, Run, User))
functions, versions, modules = (each.__table__.c for each in (Function, ModuleVersion, Module))
inputs, files = JobInput.__table__.c, File.__table__.c


class Heartbeat(Node):
    """Where a runner says that it lives, and hears whether to stop."""


class AttemptLog(Node):
    """Where a runner sends the log as it grows."""


class Outputs(Node):
    """Where a runner uploads what the function made."""


class Report(Node):
    """Where a runner says how it ended."""


class ModuleArchive(Node):
    """The code that the attempt runs, for as long as it does."""

    def load(self) -> None:
        """Raise KeyError where the attempt is not there, or over."""
        attempt: Any = self.__parent__
        if attempt.row.status != Status.RUNNING:
            raise KeyError(self.__name__)


class InputItem(Item):
    """The bytes of one of the job's input files, for as long as the attempt runs."""

    key = "input"
    columns = (inputs.number, inputs.name, files.sha256, files.size, files.tags)
    source = sa.join(JobInput.__table__, File.__table__, inputs.file_id == files.id)
    by = inputs.number
    within = sa.and_(inputs.job_id == attempts.job_id, attempts.status == Status.RUNNING)


class Inputs(Collection):
    """The input files of the attempt's job."""

    item = InputItem
    order = inputs.number
    newest_first = False
    mine = inputs.job_id

    def scope(self) -> dict[str, Any]:
        """The attempt's job."""
        return {"parent": self.__parent__.row.job_id}  # type: ignore[union-attr]


class AttemptItem(Item):
    """One try at a job. All that its runner may do in the service is below here."""

    key = "attempt"
    children = {
        "heartbeat": Heartbeat,
        "log": AttemptLog,
        "outputs": Outputs,
        "report": Report,
        "module": ModuleArchive,
        "inputs": Inputs,
    }
    columns = (
        attempts.id,
        attempts.job_id,
        attempts.number,
        attempts.status,
        attempts.worker,
        jobs.run_id,
        jobs.arguments,
        jobs.timeout,
        runs.pipeline_id,
        users.name.label("owner"),
        functions.name.label("function"),
        versions.digest,
        versions.size,
        versions.command,
        modules.name.label("module"),
    )
    source = (
        sa.join(Attempt.__table__, Job.__table__, attempts.job_id == jobs.id)
        .join(Run.__table__, jobs.run_id == runs.id)
        .join(User.__table__, jobs.owner_id == users.id)
        .join(Function.__table__, jobs.function_id == functions.id)
        .join(ModuleVersion.__table__, functions.version_id == versions.id)
        .join(Module.__table__, versions.module_id == modules.id)
    )
    by = attempts.id

    @property
    def __acl__(self) -> list[Any]:
        return [(Allow, f"attempt:{self.value}", (Permission.READ, Permission.REPORT))]

    @property
    def fence(self) -> Fence:
        """The fence of the writes of this attempt's runner."""
        return Fence(self.row.id, self.row.job_id, self.row.number)

    def __json__(self, request: Any) -> dict[str, Any]:
        row, settings = self.row, request.registry.mlapi
        url = self.link(request, attempt=row.id)
        job = JobItem.link(request, user=row.owner, pipeline=row.pipeline_id, run=row.run_id, job=row.job_id)
        module = {"name": row.module, "version": row.digest, "size": row.size, "archive": f"{url}/module"}
        return {
            "url": url,
            "job": job,
            "number": row.number,
            "status": row.status,
            "worker": row.worker,
            "function": row.function,
            "arguments": row.arguments,
            "command": row.command,
            "timeout": row.timeout or settings.job_timeout,
            "heartbeat": settings.job_heartbeat,
            "lease": settings.job_lease,
            "log_limit": settings.log_limit,
            "module": module,
            "inputs": [_input(each, url) for each in self.inputs()],
        }

    def inputs(self) -> list[Any]:
        """The rows of the job's input files, by number."""
        collection = self["inputs"]
        assert isinstance(collection, Inputs)  # noqa: S101 - tells the type checker what `children` says
        return collection.page(limit=100_000)[0]


def _input(row: Any, attempt: str) -> dict[str, Any]:
    return {
        "number": row.number,
        "name": row.name,
        "tags": row.tags,
        "sha256": row.sha256,
        "size": row.size,
        "content": f"{attempt}/inputs/{row.number}",
    }


class Attempts(Collection):
    """The attempts; a runner sees its own, an admin any."""

    item = AttemptItem

    def read_key(self, name: str) -> int:
        """The id of an attempt that the caller may see."""
        identity = must_be_known(self.request)
        key = int(super().read_key(name))
        if identity.role != "admin" and (identity.role != Use.JOB or identity.id != key):
            raise KeyError(name)
        return key
