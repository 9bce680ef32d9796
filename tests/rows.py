"""Rows that are created without the API, for tests of the layers below it."""

from typing import Any

from sqlalchemy.orm import Session

from mlapi.models import File, Function, Module, ModuleVersion, Pipeline, Task, User

SHA256 = "0" * 64


def furnish(db: Session, after: list[list[int] | None], sha256: str = SHA256) -> tuple[int, int]:
    """Create a user with a file of this digest, and an enabled pipeline of this graph; returns their ids.

    A graph has the indices of the parents of every task; None stands for the previous task.
    """
    user = User(name="ada", password_hash="")
    module = Module(name="m")
    db.add_all([user, module])
    db.flush()
    about: dict[str, Any] = {"display_name": "", "tagline": "", "doctxt": "", "command": []}
    version = ModuleVersion(module_id=module.id, number=1, digest=sha256, size=0, **about)
    db.add(version)
    db.flush()
    function = Function(
        version_id=version.id,
        name="f",
        doctxt="",
        options=[],
        creates_new_files=True,
        modifies_input_files=False,
        expected_filetype="",
        optional_filetypes=[],
        output_tags=[],
        min_files=0,
        max_files=None,
        output_files=[],
    )
    pipeline = Pipeline(owner_id=user.id, name="p", enabled=True)
    file = File(owner_id=user.id, name="a", sha256=sha256, size=0)
    db.add_all([function, pipeline, file])
    db.flush()
    tasks: list[Task] = []
    for position, earlier in enumerate(after, 1):
        named = None if earlier is None else [tasks[index].id for index in earlier]
        task = Task(pipeline_id=pipeline.id, position=position, function_id=function.id, arguments={}, after=named)
        db.add(task)
        db.flush()
        tasks.append(task)
    return pipeline.id, file.id
