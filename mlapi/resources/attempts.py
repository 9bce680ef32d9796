"""Attempts: the resources that runners use; a runner has access to its own attempt only."""

from collections.abc import Sequence
from typing import TypedDict, cast

import sqlalchemy as sa
from pyramid.authorization import Allow

from mlapi.models import Attempt, File, Job, JobInput, User
from mlapi.models.attempts import Fence
from mlapi.models.base import JsonObject
from mlapi.models.jobs import Status
from mlapi.models.metrics import NAMES
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import Collection, Condition, Item
from mlapi.resources.modules import functions, join_function, modules, versions
from mlapi.resources.tree import Access, Linker, Part, Url
from mlapi.security import CALLER, Identity, Permission, RunnerIdentity, UserIdentity

attempts, jobs, users = Attempt.__table__.c, Job.__table__.c, User.__table__.c
inputs, files = JobInput.__table__.c, File.__table__.c

INPUTS = 1000
"""Maximum number of inputs in the document of an attempt; the list of its inputs has the others."""


class InputDocument(TypedDict):
    """An input file of a job."""

    url: Url
    number: int
    name: str
    tags: JsonObject
    sha256: str
    size: int
    content: Url


class ArchiveDocument(TypedDict):
    """The module version that an attempt runs."""

    name: str
    version: str
    size: int
    archive: Url


class AttemptDocument(TypedDict):
    """An attempt, with everything that its runner needs."""

    url: Url
    job: Url
    number: int
    status: str
    worker: str
    function: str
    arguments: JsonObject
    command: list[str]
    timeout: float
    heartbeat: float
    lease: float
    delivery_timeout: float
    log_limit: int
    log_piece_limit: int
    report_limit: int
    metrics_limit: int
    points_limit: int
    names_limit: int
    tags_limit: int
    module: ArchiveDocument
    inputs: Sequence[InputDocument]
    more_inputs: Url | None


class Heartbeat(Part["AttemptItem"]):
    """The heartbeat of an attempt, which renews its lease."""


class AttemptLog(Part["AttemptItem"]):
    """The log of an attempt."""


class AttemptMetrics(Part["AttemptItem"]):
    """The points of metrics that an attempt has recorded."""


class Outputs(Part["AttemptItem"]):
    """Uploads of the output files of an attempt."""


class Report(Part["AttemptItem"]):
    """The report of the result of an attempt."""


class ModuleArchive(Part["AttemptItem"]):
    """The archive of the module that an attempt runs; exists only while the attempt is running."""

    def load(self) -> None:
        """Raise KeyError unless the attempt is running."""
        if self.item.row.status != Status.RUNNING:
            raise KeyError(self.__name__)


def visible_attempts(identity: Identity) -> Condition:
    """Administrators see all attempts, runners their own."""
    match identity:
        case UserIdentity(is_admin=True):
            return sa.true()
        case RunnerIdentity():
            return attempts.id == CALLER
        case _:
            return sa.false()


class InputItem(Item[InputDocument, InputDocument]):
    """An input file of the job of an attempt; exists only while the attempt is running."""

    key = "input"
    fields = Fields(
        Field(inputs.number, sort=True),
        Field(inputs.name),
        Field(files.sha256),
        Field(files.size),
        Field(files.tags),
        Field(attempts.id, "attempt", shown=False),
    )
    source = sa.join(JobInput.__table__, File.__table__, inputs.file_id == files.id).join(
        Attempt.__table__, inputs.job_id == attempts.job_id
    )
    by = inputs.number
    within = attempts.status == Status.RUNNING

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """The inputs of the attempts that are visible to the caller."""
        return visible_attempts(identity)

    @classmethod
    def describe(cls, row: Row, link: Linker) -> InputDocument:
        """An input, whose URL is that of its content."""
        url = link("input", attempt=row.attempt, input=row.number)
        return {
            "url": url,
            "number": row.number,
            "name": row.name,
            "tags": row.tags,
            "sha256": row.sha256,
            "size": row.size,
            "content": url,
        }


class Inputs(Collection[InputItem]):
    """The input files of the job of an attempt."""

    item = InputItem
    order = "number"
    newest_first = False
    few = True
    tied_by = attempts.id


class AttemptItem(Item[AttemptDocument, AttemptDocument]):
    """An attempt: one execution of a job by one runner."""

    key = "attempt"
    children = {
        "heartbeat": Heartbeat,
        "log": AttemptLog,
        "metrics": AttemptMetrics,
        "outputs": Outputs,
        "report": Report,
        "module": ModuleArchive,
        "inputs": Inputs,
    }
    fields = Fields(
        Field(attempts.id, shown=False, sort=True),
        Field(attempts.job_id, "job"),
        Field(attempts.number),
        Field(attempts.status),
        Field(attempts.worker),
        Field(attempts.fetched, shown=False),
        Field(jobs.run_id, shown=False),
        Field(jobs.arguments),
        Field(jobs.timeout),
        Field(jobs.pipeline_id, shown=False),
        Field(users.name, "owner", shown=False),
        Field(functions.name, "function"),
        Field(versions.digest, "version", shown=False),
        Field(versions.size, shown=False),
        Field(versions.command),
        Field(modules.name, "module"),
    )
    source = join_function(
        sa.join(Attempt.__table__, Job.__table__, attempts.job_id == jobs.id).join(
            User.__table__, jobs.owner_id == users.id
        ),
        jobs.function_id,
    )
    by = attempts.id

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """Administrators see all attempts, runners their own."""
        return visible_attempts(identity)

    @property
    def __acl__(self) -> list[Access]:
        """The runner may read and report."""
        return [(Allow, f"attempt:{self.value}", (Permission.READ, Permission.REPORT))]

    @property
    def fence(self) -> Fence:
        """The fence of the writes of this attempt's runner."""
        return Fence(id=self.row.id, job_id=self.row.job, number=self.row.number)

    def document(self) -> AttemptDocument:
        """The attempt, with the settings of its lease and links to its module and inputs."""
        row, settings = self.row, self.request.settings
        url = self.link("attempt", attempt=row.id)
        inputs, after = self.inputs()
        return {
            "url": url,
            "job": self.link("job", user=row.owner, pipeline=row.pipeline_id, run=row.run_id, job=row.job),
            "number": row.number,
            "status": row.status,
            "worker": row.worker,
            "function": row.function,
            "arguments": row.arguments,
            "command": row.command,
            "timeout": row.timeout or settings.job_timeout,
            "heartbeat": settings.job_heartbeat,
            "lease": settings.job_lease,
            "delivery_timeout": settings.delivery_timeout,
            "log_limit": settings.log_limit,
            "log_piece_limit": settings.log_piece_limit,
            "report_limit": settings.report_limit,
            "metrics_limit": settings.metrics_limit,
            "points_limit": settings.points_limit,
            "names_limit": NAMES,
            "tags_limit": settings.tags_limit,
            "module": {"name": row.module, "version": row.version, "size": row.size, "archive": f"{url}/module"},
            "inputs": inputs,
            "more_inputs": f"{url}/inputs?after={after}" if after is not None else None,
        }

    def inputs(self) -> tuple[Sequence[InputDocument], int | None]:
        """The first page of the input files of the job, by number, and the cursor of the next page."""
        collection = cast("Inputs", self["inputs"])
        rows, after = collection.page(limit=INPUTS, most_bytes=self.request.settings.page_limit)
        return collection.describe(rows), after


class Attempts(Collection[AttemptItem]):
    """Attempts. Runners see their own, administrators see all."""

    item = AttemptItem
