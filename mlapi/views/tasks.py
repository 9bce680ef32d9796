"""Tasks: list, create, show, change, delete."""

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

tasks.get(permission=Permission.READ, schema=answers.listing(Tasks))(answers.page)
task.get(permission=Permission.READ)(answers.show)


@tasks.post(permission=Permission.WRITE, schema=Expects(body=NewTask()))
def create(tasks: Tasks, request: Request) -> TaskDocument:
    """Add a task: a function with arguments, at the end or at a position."""
    task = insert_task(request.db, tasks.parent.id, **changes(request))
    return answers.created(tasks[str(task)], request)


@task.patch(permission=Permission.WRITE, schema=Expects(body=TaskChange()))
def update(task: TaskItem, request: Request) -> TaskDocument:
    """Change a task's function, arguments, position, predecessors or time limit."""
    change_task(request.db, task.id, changes(request))
    return task.reload().document()


@task.delete(permission=Permission.WRITE)
def delete(task: TaskItem, request: Request) -> answers.Deletion:
    """Delete a task; the tasks after it move up."""
    delete_task(request.db, task.id)
    return answers.deletion(tasks=1)


def changes(request: Request) -> TaskChanges:
    """The fields of the body, with the key of the function instead of its URL."""
    body = request.validated["body"]
    changed: TaskChanges = body | {"function": FunctionKey(**body["function"])} if "function" in body else body
    return changed
