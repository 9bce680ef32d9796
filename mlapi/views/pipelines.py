"""Pipelines: list, create, show, change, delete."""

from mlapi.http.request import Request
from mlapi.models import pipelines as rules
from mlapi.models.deletion import delete_pipeline
from mlapi.resources.pipelines import AllPipelines, PipelineDocument, PipelineItem, Pipelines
from mlapi.schemas.pipelines import NewPipeline, PipelineChange
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

pipelines, pipeline, all_pipelines = Service(Pipelines), Service(PipelineItem), Service(AllPipelines)

pipelines.get(permission=Permission.READ, schema=answers.listing(Pipelines))(answers.page)
pipeline.get(permission=Permission.READ)(answers.show)
all_pipelines.get(permission=Permission.READ, schema=answers.listing(AllPipelines))(answers.page)


@pipelines.post(permission=Permission.WRITE, schema=Expects(body=NewPipeline()))
def create(pipelines: Pipelines, request: Request) -> PipelineDocument:
    """Create a pipeline."""
    pipeline = rules.create(request.db, pipelines.parent.id, **request.validated["body"])
    return answers.created(pipelines[str(pipeline.id)], request)


@pipeline.patch(permission=Permission.WRITE, schema=Expects(body=PipelineChange()))
def update(pipeline: PipelineItem, request: Request) -> PipelineDocument:
    """Rename, enable or disable a pipeline; existing runs do not change."""
    rules.change(request.db, pipeline.id, request.validated["body"])
    return pipeline.reload().document()


@pipeline.delete(permission=Permission.WRITE)
def delete(pipeline: PipelineItem, request: Request) -> answers.Deletion:
    """Delete a pipeline with its tasks, runs, jobs and their output files; many runs in several transactions."""
    return answers.deletion(**delete_pipeline(request.db, pipeline.id, request.settle))
