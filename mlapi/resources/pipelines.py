"""Pipelines of a user, and pipelines across owners."""

import datetime
from typing import TypedDict

import sqlalchemy as sa

from mlapi.models import Pipeline, User
from mlapi.resources.fields import Field, Fields, Filter, Reference, Row
from mlapi.resources.grids import Grids
from mlapi.resources.items import AcrossOwners, Collection, OwnedItem
from mlapi.resources.runs import Runs
from mlapi.resources.tasks import Tasks
from mlapi.resources.tree import Linker, Url

pipelines, users = Pipeline.__table__.c, User.__table__.c
OWNER = Reference(pipelines.owner_id, sa.select(users.id))


class PipelineDocument(TypedDict):
    """A pipeline."""

    id: int
    url: Url
    name: str
    enabled: bool
    created: datetime.datetime
    tasks: Url
    runs: Url
    grids: Url


class PipelineItem(OwnedItem[PipelineDocument, PipelineDocument]):
    """A pipeline: a named sequence or graph of tasks."""

    key = "pipeline"
    children = {"tasks": Tasks, "runs": Runs, "grids": Grids}
    fields = Fields(
        Field(pipelines.id, sort=True),
        Field(pipelines.name, filter=Filter.LISTS),
        Field(pipelines.enabled, filter=Filter.LISTS),
        Field(pipelines.created),
        Field(users.name, "owner", shown=False, filter=Filter.ACROSS_OWNERS, by=OWNER),
    )
    source = sa.join(Pipeline.__table__, User.__table__, pipelines.owner_id == users.id)
    by = pipelines.id
    within = pipelines.owner_id == users.id
    owner = pipelines.owner_id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> PipelineDocument:
        """A pipeline, with links to its tasks and runs."""
        url = link("pipeline", user=row.owner, pipeline=row.id)
        return {
            "id": row.id,
            "url": url,
            "name": row.name,
            "enabled": row.enabled,
            "created": row.created,
            "tasks": f"{url}/tasks",
            "runs": f"{url}/runs",
            "grids": f"{url}/grids",
        }


class Pipelines(Collection[PipelineItem]):
    """The pipelines of a user, newest first."""

    item = PipelineItem
    tied_by = pipelines.owner_id


class AllPipelines(AcrossOwners[PipelineItem]):
    """All pipelines that are visible to the caller, newest first."""

    kind = "pipelines"
    item = PipelineItem
