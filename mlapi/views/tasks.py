"""Tasks: list, create, show, change, delete."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mlapi.errors import Invalid, all_of
from mlapi.models.deletion import delete_task
from mlapi.models.modules import FunctionKey
from mlapi.models.pipelines import change_task, insert_task
from mlapi.resources.base import match, references
from mlapi.resources.modules import FunctionItem, VersionFunction
from mlapi.resources.tasks import TaskItem, Tasks
from mlapi.schemas.pages import Page
from mlapi.schemas.tasks import NewTask, TaskChange
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

tasks, task = Service(Tasks), Service(TaskItem)

tasks.get(permission=Permission.READ, schema=Expects(query=Page()))(answers.page)
task.get(permission=Permission.READ)(answers.show)


@tasks.post(permission=Permission.WRITE, schema=Expects(body=NewTask()))
def create(tasks: Tasks, request: Any) -> dict[str, Any]:
    """Add a task: a function with arguments, at the end or at a position."""
    made = insert_task(request.db, tasks.pipeline, **resolved(tasks, request))
    return answers.created(tasks[str(made)], request)


@task.patch(permission=Permission.WRITE, schema=Expects(body=TaskChange()))
def update(task: TaskItem, request: Any) -> TaskItem:
    """Change a task's function, arguments, place, predecessors or time limit."""
    changes: Any = resolved(task.__parent__, request)
    change_task(request.db, task.id, changes)
    return task.fresh()


@task.delete(permission=Permission.WRITE)
def delete(task: TaskItem, request: Any) -> dict[str, Any]:
    """Delete a task; those behind it move down."""
    delete_task(request.db, task.id)
    return answers.deleted(tasks=1)


def resolved(tasks: Any, request: Any) -> dict[str, Any]:
    """The body with its URLs turned into what they name."""
    body: dict[str, Any] = request.validated["body"]
    readers: dict[str, Callable[..., Any]] = {
        "function": function_at,
        "after": earlier_in,
        "timeout": seconds_in,
    }
    given = {
        name: partial(read, body[name], tasks, request) for name, read in readers.items() if body.get(name) is not None
    }
    return body | all_of(given)


def function_at(url: str, _tasks: Any, _request: Any) -> FunctionKey:
    """The key of the function at a URL."""
    keys = match((FunctionItem, VersionFunction), url)
    if keys is None:
        raise Invalid.field("function", f"Must be a URL like {FunctionItem.path}.")
    return FunctionKey(**keys)


def earlier_in(urls: list[str], tasks: Any, _request: Any) -> list[int]:
    """The ids of the tasks at these URLs."""
    return references(TaskItem, urls, "after", **tasks.keys)


def seconds_in(timeout: float, _tasks: Any, request: Any) -> float:
    """A time limit that the settings allow."""
    most = request.registry.mlapi.job_timeout_limit
    if timeout > most:
        raise Invalid.field("timeout", f"Must be at most {most:g} seconds.")
    return timeout
