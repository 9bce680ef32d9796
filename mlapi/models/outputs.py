"""Outputs of attempts: uploaded blobs, which the report of an attempt turns into files of its job."""

import fnmatch
from collections.abc import Container, Sequence
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import FieldErrors
from mlapi.models.base import Base, JsonObject
from mlapi.models.events import record
from mlapi.models.files import File, Kind
from mlapi.models.jobs import Job, JobInput, JobOutput
from mlapi.models.modules import Function


class Upload(Base):
    """A blob that an attempt has uploaded; the report turns it into a file."""

    __tablename__ = "uploads"
    __table_args__ = (sa.Index(None, "sha256"),)

    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempts.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]


@dataclass(frozen=True)
class Output:
    """An output file in the report of a runner; `input` is the number of the input that it replaces."""

    name: str
    sha256: str
    tags: JsonObject
    origin: str
    input: int | None = None


def create_outputs(db: Session, job: Job, attempt_id: int, outputs: Sequence[Output], tags_limit: float) -> None:
    """Create the output files of a finished job; an unchanged input keeps its tags, and gets those of the output.

    Raises `Invalid` for an output that was not uploaded, an unknown input, and tags over their limit in bytes.
    """
    uploads = {row.sha256: row.size for row in db.scalars(sa.select(Upload).where(Upload.attempt_id == attempt_id))}
    query = sa.select(JobInput.number, File.id, File.tags).join(File, JobInput.file_id == File.id)
    inputs = {row.number: row for row in db.execute(query.where(JobInput.job_id == job.id))}
    inherited = {row.number: row.tags for row in inputs.values()}
    tags = [{**inherited.get(_kept(output), {}), **output.tags} for output in outputs]
    _check_outputs(outputs, uploads, inputs, tags, tags_limit)
    rows = [
        {
            "owner_id": job.owner_id,
            "name": output.name,
            "sha256": output.sha256,
            "size": uploads[output.sha256],
            "kind": Kind.OUTPUT,
            "tags": own_tags,
            "parent_id": inputs[output.input].id if output.input is not None else None,
            "job_id": job.id,
        }
        for output, own_tags in zip(outputs, tags, strict=True)
    ]
    if rows:
        files = db.scalars(sa.insert(File).returning(File.id, sort_by_parameter_order=True), rows)
        add_outputs(db, job.id, files.all())
        record(db, "output", "job", job.id, job.run_id, files=len(rows))


def add_outputs(db: Session, job_id: int, file_ids: Sequence[int]) -> None:
    """Record files as the outputs of a job, in this order."""
    rows = [{"job_id": job_id, "number": number, "file_id": file_id} for number, file_id in enumerate(file_ids, 1)]
    if rows:
        db.execute(sa.insert(JobOutput), rows)


def _kept(output: Output) -> int | None:
    """The number of the input that an output repeats, if any."""
    return output.input if output.origin == "unchanged" else None


def _check_outputs(
    outputs: Sequence[Output],
    uploads: Container[str],
    inputs: Container[int],
    tags: Sequence[JsonObject],
    tags_limit: float,
) -> None:
    errors = FieldErrors()
    for index, output in enumerate(outputs):
        if len(orjson.dumps(tags[index])) > tags_limit:
            errors.add(f"outputs.{index}.tags", f"Must have at most {tags_limit} bytes of JSON.")
        if output.sha256 not in uploads:
            errors.add(f"outputs.{index}.sha256", "Upload not found in this attempt.")
        if output.input is not None and output.input not in inputs:
            errors.add(f"outputs.{index}.input", "Input not found in this job.")
    errors.raise_all()


def missing_output(function: Function, outputs: Sequence[Output]) -> str | None:
    """The reason why the outputs do not satisfy the function's manifest, or None."""
    names = [output.name for output in outputs]
    for pattern in function.output_files:
        if not fnmatch.filter(names, pattern):
            return f"Output {pattern!r}, which the manifest requires, is missing."
    return None
