"""Pipelines of a user, and everybody's pipelines."""

from typing import Any

import sqlalchemy as sa

from mlapi.models import Pipeline, User
from mlapi.resources.base import Collection, Everyones, Item
from mlapi.resources.runs import Runs
from mlapi.resources.tasks import Tasks

pipelines, users = (each.__table__.c for each in (Pipeline, User))


class PipelineItem(Item):
    """A pipeline: tasks in order, under a name."""

    key = "pipeline"
    children = {"tasks": Tasks, "runs": Runs}
    columns = (pipelines.id, pipelines.name, pipelines.enabled, pipelines.created, users.name.label("owner"))
    source = sa.join(Pipeline.__table__, User.__table__, pipelines.owner_id == users.id)
    by = pipelines.id
    within = pipelines.owner_id == users.id

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A pipeline, with links to its tasks and runs."""
        url = cls.link(request, user=row.owner, pipeline=row.id)
        return {
            "id": row.id,
            "url": url,
            "name": row.name,
            "enabled": row.enabled,
            "created": row.created,
            "tasks": f"{url}/tasks",
            "runs": f"{url}/runs",
        }


FILTERS = {
    "name": lambda bound: pipelines.name == bound,
    "enabled": lambda bound: pipelines.enabled == bound,
}


class Pipelines(Collection):
    """The pipelines of a user, newest first."""

    item = PipelineItem
    mine = pipelines.owner_id
    filters = FILTERS

    @property
    def owner(self) -> int:
        """The id of the user whose pipelines these are."""
        return int(self.__parent__.id)  # type: ignore[union-attr]


class AllPipelines(Everyones):
    """The pipelines that the caller may see, newest first."""

    item = PipelineItem
    mine = pipelines.owner_id
    filters = {**FILTERS, "owner": lambda bound: users.name == bound}
