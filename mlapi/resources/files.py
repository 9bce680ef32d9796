"""Files of a user, and files across owners."""

import datetime
from collections.abc import Iterable
from typing import TypedDict

import sqlalchemy as sa

from mlapi.models import File, Job, User
from mlapi.models.base import JsonObject
from mlapi.models.deletion import Holder
from mlapi.models.files import Kind
from mlapi.resources.fields import Field, Fields, Filter, Reference, Row
from mlapi.resources.items import AcrossOwners, Collection, OwnedItem
from mlapi.resources.tree import Linker, Part, Url

files, jobs, users = File.__table__.c, Job.__table__.c, User.__table__.c
OWNER = Reference(files.owner_id, sa.select(users.id))


class FileDocument(TypedDict):
    """A file."""

    id: int
    url: Url
    name: str
    kind: str
    size: int
    sha256: str
    tags: JsonObject
    created: datetime.datetime
    content: Url
    parent: Url | None
    job: Url | None


class FileContent(Part["FileItem"]):
    """The content of a file."""


class FileItem(OwnedItem[FileDocument, FileDocument]):
    """A file: immutable content with a name, tags and an origin."""

    key = "file"
    children = {"content": FileContent}
    fields = Fields(
        Field(files.id, sort=True),
        Field(files.name, filter=Filter.LISTS),
        Field(files.sha256, filter=Filter.LISTS),
        Field(files.size),
        Field(files.kind, filter=Filter.LISTS, choices=Kind),
        Field(files.tags),
        Field(files.parent_id, "parent"),
        Field(files.job_id, "job", filter=Filter.LISTS),
        Field(files.created),
        Field(jobs.run_id, shown=False),
        Field(jobs.pipeline_id, shown=False),
        Field(users.name, "owner", shown=False, filter=Filter.ACROSS_OWNERS, by=OWNER),
    )
    source = sa.join(File.__table__, User.__table__, files.owner_id == users.id).outerjoin(
        Job.__table__, files.job_id == jobs.id
    )
    by = files.id
    within = files.owner_id == users.id
    owner = files.owner_id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> FileDocument:
        """A file, with links to its content, its parent and the job that created it."""
        url = link("file", user=row.owner, file=row.id)
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
            "parent": link("file", user=row.owner, file=row.parent) if row.parent else None,
            "job": link("job", user=row.owner, pipeline=row.pipeline_id, run=row.run_id, job=row.job)
            if row.job
            else None,
        }

    def links_to(self, holders: Iterable[Holder]) -> list[Url]:
        """The URLs of the runs and jobs `(pipeline, run, job or None)` that refer to this file; all have its owner."""
        return [
            self.link("job" if job else "run", user=self.row.owner, pipeline=pipeline, run=run, job=job)
            for pipeline, run, job in holders
        ]


class Files(Collection[FileItem]):
    """The files of a user, newest first."""

    item = FileItem
    tied_by = files.owner_id


class AllFiles(AcrossOwners[FileItem]):
    """All files that are visible to the caller, newest first."""

    kind = "files"
    item = FileItem
