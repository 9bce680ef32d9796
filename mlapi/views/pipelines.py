"""Pipelines: list, create, show, change, delete."""

from typing import Any

from mlapi.models import pipelines as rules
from mlapi.models.deletion import delete_pipeline
from mlapi.resources.pipelines import AllPipelines, PipelineItem, Pipelines
from mlapi.schemas.pages import AllPipelinesPage, PipelinesPage
from mlapi.schemas.pipelines import NewPipeline, PipelineChange
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

pipelines, pipeline, all_pipelines = Service(Pipelines), Service(PipelineItem), Service(AllPipelines)

pipelines.get(permission=Permission.READ, schema=Expects(query=PipelinesPage()))(answers.page)
pipeline.get(permission=Permission.READ)(answers.show)
all_pipelines.get(permission=Permission.READ, schema=Expects(query=AllPipelinesPage()))(answers.page)


@pipelines.post(permission=Permission.WRITE, schema=Expects(body=NewPipeline()))
def create(pipelines: Pipelines, request: Any) -> dict[str, Any]:
    """Create a pipeline."""
    pipeline = rules.create(request.db, pipelines.owner, **request.validated["body"])
    return answers.created(pipelines[str(pipeline.id)], request)


@pipeline.patch(permission=Permission.WRITE, schema=Expects(body=PipelineChange()))
def update(pipeline: PipelineItem, request: Any) -> PipelineItem:
    """Change a pipeline's name, or enable or disable it; runs that exist stay as they are."""
    rules.change(request.db, pipeline.id, request.validated["body"])
    return pipeline.fresh()


@pipeline.delete(permission=Permission.WRITE)
def delete(pipeline: PipelineItem, request: Any) -> dict[str, Any]:
    """Delete a pipeline with its tasks and its runs, their jobs and the files that these made."""
    return answers.deleted(**delete_pipeline(request.db, pipeline.id))
