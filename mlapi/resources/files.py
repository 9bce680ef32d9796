"""Files of a user, and everybody's files."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from mlapi.models import File, Job, Run, User
from mlapi.resources.base import Collection, Everyones, Item, Node

files, jobs, runs, users = (each.__table__.c for each in (File, Job, Run, User))


class FileContent(Node):
    """The bytes of a file."""


class FileItem(Item):
    """A file: a blob with a name, tags, and where it came from."""

    key = "file"
    children = {"content": FileContent}
    columns = (
        files.id,
        files.name,
        files.sha256,
        files.size,
        files.kind,
        files.tags,
        files.parent_id,
        files.job_id,
        files.created,
        jobs.run_id,
        runs.pipeline_id,
        users.name.label("owner"),
    )
    source = (
        sa.join(File.__table__, User.__table__, files.owner_id == users.id)
        .outerjoin(Job.__table__, files.job_id == jobs.id)
        .outerjoin(Run.__table__, jobs.run_id == runs.id)
    )
    by = files.id
    within = files.owner_id == users.id

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A file, with links to its bytes, its parent and the job that made it."""
        from mlapi.resources.jobs import JobItem

        url = cls.link(request, user=row.owner, file=row.id)
        made_by = {"pipeline": row.pipeline_id, "run": row.run_id, "job": row.job_id}
        return {
            "id": row.id,
            "url": url,
            "name": row.name,
            "kind": row.kind,
            "size": row.size,
            "sha256": row.sha256,
            "tags": row.tags,
            "created": row.created,
            "content": f"{url}/content",
            "parent": row.parent_id and cls.link(request, user=row.owner, file=row.parent_id),
            "job": row.job_id and JobItem.link(request, user=row.owner, **made_by),
        }

    def links_to(self, holders: Iterable[Any]) -> list[str]:
        """The URLs of runs and jobs `(pipeline, run, job or None)` that are the same user's as this file."""
        from mlapi.resources.jobs import JobItem

        user = self.keys["user"]
        return [
            (JobItem if job else JobItem.holder).link(self.request, user=user, pipeline=pipeline, run=run, job=job)
            for pipeline, run, job in holders
        ]


FILTERS = {
    "kind": lambda bound: files.kind == bound,
    "name": lambda bound: files.name == bound,
    "sha256": lambda bound: files.sha256 == bound,
    "job": lambda bound: files.job_id == bound,
}


class Files(Collection):
    """The files of a user, newest first."""

    item = FileItem
    mine = files.owner_id
    filters = FILTERS

    @property
    def owner(self) -> int:
        """The id of the user whose files these are."""
        return int(self.__parent__.id)  # type: ignore[union-attr]


class AllFiles(Everyones):
    """The files that the caller may see, newest first."""

    item = FileItem
    mine = files.owner_id
    filters = {**FILTERS, "owner": lambda bound: users.name == bound}
