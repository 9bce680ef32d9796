"""Tasks: list, create, show, change, delete."""

from typing import Any, cast

from mlapi.http.request import Request
from mlapi.models.deletion import delete_task
from mlapi.models.modules import FunctionKey
from mlapi.models.pipelines import TaskChanges, change_task, insert_task
from mlapi.resources.tasks import TaskDocument, TaskItem, Tasks
from mlapi.schemas.tasks import NewTask, TaskChange
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

tasks, task = Service(Tasks), Service(TaskItem)

NO_FUNCTION = {"module": "", "function": ""}
"""The keys of no function."""

tasks.get(permission=Permission.READ, schema=answers.listing(Tasks))(answers.page)
task.get(permission=Permission.READ)(answers.show)


def changes(body: dict[str, Any]) -> TaskChanges:
    """The fields of a body, with the key of the function instead of its URL."""
    changed: Any = body | {"function": FunctionKey(**body["function"])} if "function" in body else body
    return cast(TaskChanges, changed)


def insert(tasks: Tasks, request: Request, body: dict[str, Any]) -> int:
    """Insert a task of these fields; a body without its required fields is refused, after a check of the others."""
    return insert_task(request.db, tasks.parent.id, **changes({"function": NO_FUNCTION, "arguments": {}, **body}))


def change(task: TaskItem, request: Request, body: dict[str, Any]) -> None:
    """Change these fields of a task."""
    change_task(request.db, task.id, changes(body))


@tasks.post(permission=Permission.WRITE, schema=Expects(body=NewTask(), rules=insert))
def create(tasks: Tasks, request: Request) -> TaskDocument:
    """Add a task: a function with arguments, at the end or at a position."""
    task = insert(tasks, request, request.validated["body"])
    return answers.created(tasks[str(task)], request)


@task.patch(permission=Permission.WRITE, schema=Expects(body=TaskChange(), rules=change))
def update(task: TaskItem, request: Request) -> TaskDocument:
    """Change a task's function, arguments, position, predecessors or time limit."""
    change(task, request, request.validated["body"])
    return task.reload().document()


@task.delete(permission=Permission.WRITE)
def delete(task: TaskItem, request: Request) -> answers.Deletion:
    """Delete a task; the tasks after it move up."""
    delete_task(request.db, task.id)
    return answers.deletion(tasks=1)
