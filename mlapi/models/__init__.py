"""SQLAlchemy tables and the rules of the domain, independent of HTTP."""

from mlapi.models.attempts import Attempt
from mlapi.models.base import Base
from mlapi.models.events import Event
from mlapi.models.files import File
from mlapi.models.grids import Grid
from mlapi.models.jobs import Job, JobDependency, JobInput, JobOutput, JobParent
from mlapi.models.logs import LogPiece
from mlapi.models.metrics import Metric
from mlapi.models.modules import Function, Module, ModuleVersion
from mlapi.models.outputs import Upload
from mlapi.models.pipelines import Pipeline, Task
from mlapi.models.queues import Queue
from mlapi.models.runs import Run, RunFile
from mlapi.models.users import User
from mlapi.models.workers import Worker

__all__ = [
    "Attempt",
    "Base",
    "Event",
    "File",
    "Function",
    "Grid",
    "Job",
    "JobDependency",
    "JobInput",
    "JobOutput",
    "JobParent",
    "LogPiece",
    "Metric",
    "Module",
    "ModuleVersion",
    "Pipeline",
    "Queue",
    "Run",
    "RunFile",
    "Task",
    "Upload",
    "User",
    "Worker",
]
