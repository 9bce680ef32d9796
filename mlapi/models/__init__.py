"""SQLAlchemy tables and the rules of the domain, independent of HTTP."""

from mlapi.models.attempts import Attempt, LogPiece
from mlapi.models.base import Base
from mlapi.models.files import File
from mlapi.models.jobs import Job, JobInput, JobParent
from mlapi.models.modules import Function, Module, ModuleVersion
from mlapi.models.outputs import Upload
from mlapi.models.pipelines import Pipeline, Task
from mlapi.models.runs import Run, RunFile
from mlapi.models.users import User
from mlapi.models.workers import Worker

__all__ = [
    "Attempt",
    "Base",
    "File",
    "Function",
    "Job",
    "JobInput",
    "JobParent",
    "LogPiece",
    "Module",
    "ModuleVersion",
    "Pipeline",
    "Run",
    "RunFile",
    "Task",
    "Upload",
    "User",
    "Worker",
]
