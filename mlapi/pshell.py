"""The environment of `pshell`: `request`, `root`, `db`, `models`, `sa`, `tm`, and a transaction."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from transaction import TransactionManager
from transaction.interfaces import NoTransaction

from mlapi import models
from mlapi.models.users import Role
from mlapi.security import UserIdentity

OPERATOR = UserIdentity(0, "(operator)", Role.ADMIN)
"""The caller of the shell's request: an administrator that is no user, so that the tree shows everything."""

RECIPES = """\
# 1. Find a user, as a row and as a document
ada = db.scalars(sa.select(models.User).where(models.User.name == "ada")).one()
root["api"]["v1"]["users"]["ada"].document()

# 2. Set the password and the role of a user
ada.password_hash, ada.role = request.passwords.hash("a long new password"), "user"

# 3. List the ten newest jobs that failed, with their reasons
jobs, _ = root["api"]["v1"]["jobs"].page(10, status="FAILED")
[(job.id, job.owner, job.reason) for job in jobs]

# 4. Make a pipeline with one task; changes are kept by tm.commit(), and lost without it
pipeline = models.pipelines.create(db, ada.id, "Greetings", enabled=True)
function = models.modules.FunctionKey("helloworld", "say_hello")
models.pipelines.insert_task(db, pipeline.id, function, {"excited": True})
tm.commit()

# 5. Start a run of a pipeline over the newest file of its owner
file = db.scalars(sa.select(models.File).filter_by(owner_id=ada.id).order_by(models.File.id.desc())).first()
run, _ = models.runs.start(db, pipeline.id, [file.id])
tm.commit()

# 6. Run the same pipeline over the same files again
inputs = sa.select(models.RunFile.file_id).filter_by(run_id=run.id).order_by(models.RunFile.position)
again, _ = models.runs.start(db, run.pipeline_id, list(db.scalars(inputs)))

# 7. Queue a running job again: its runner stops the function, and another one starts
attempt = db.scalars(sa.select(models.Attempt).filter_by(status="RUNNING")).first()
fence = models.attempts.Fence(attempt.id, attempt.job_id, attempt.number)
models.attempts.hand_back(db, fence, "An operator queued the job again.", None, models.attempts.Retries())

# 8. Read the end of the log of an attempt that runs, or that ended in the last ten minutes
print(models.logs.read(db, attempt.id, attempt.log_size - 1000, attempt.log_size).decode(errors="replace"))

# 9. Cancel runs, and disable a pipeline
models.runs.cancel(db, run.id), models.runs.cancel(db, again.id)
models.pipelines.change(db, pipeline.id, {"enabled": False})
tm.commit()

# 10. Delete a run that has ended, a pipeline with all its runs, and a file
models.deletion.delete_run(db, run.id)
models.deletion.delete_pipeline(db, pipeline.id, tm.commit)
models.deletion.delete_file(db, file.id)
tm.commit()
"""
"""What operators do in the shell; each recipe can be pasted. docs/operation.md shows them, and a test executes them."""


class Transactions:
    """The transaction of the shell: `commit()` keeps the changes, `abort()` drops them, and both begin a new one."""

    def __init__(self, manager: TransactionManager) -> None:
        self._manager = manager
        manager.begin()

    def commit(self) -> None:
        """Commit the changes, and begin a new transaction; after an error, the changes are dropped."""
        try:
            self._manager.commit()
        except BaseException:
            self._manager.abort()
            raise
        finally:
            self._manager.begin()

    def abort(self) -> None:
        """Drop the changes, and begin a new transaction."""
        self._manager.abort()
        self._manager.begin()


def setup(env: dict[str, Any]) -> Iterator[None]:
    """Provide the tree, the session and the models; changes are lost unless `tm.commit()` is called."""
    request = env["request"]
    request.method = "POST"  # Only requests that write have a session.
    request.environ["tm.active"] = True
    request.set_property(lambda _request: OPERATOR, "identity")
    request.db.expire_on_commit = False  # A row that was found before a commit can still be read after it.
    env["tm"] = Transactions(request.tm)
    env["root"] = env["root_factory"](request) if "root_factory" in env else env["root"]
    env["db"] = request.db
    env["models"] = models
    env["sa"] = sa
    sys.stdout.write(f"Recipes, which docs/operation.md explains:\n\n{RECIPES}\n")
    try:
        yield
    finally:
        with suppress(NoTransaction):
            request.tm.abort()
