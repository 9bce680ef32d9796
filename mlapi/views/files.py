"""Files: list, upload, show, download, change tags, delete."""

from typing import Any

import colander
from pyramid.httpexceptions import HTTPUnsupportedMediaType

from mlapi.downloads import download
from mlapi.models import File
from mlapi.models.errors import Invalid
from mlapi.resources.base import references
from mlapi.resources.files import AllFiles, FileContent, FileItem, Files
from mlapi.schemas.files import FileChange, NewFile
from mlapi.schemas.pages import AllFilesPage, FilesPage
from mlapi.security import Permission
from mlapi.service import Expects, Service, field_errors, strict_json
from mlapi.storage import Blob
from mlapi.uploads import plain_name, read_chunks, receive
from mlapi.views import answers

files, file, content, all_files = Service(Files), Service(FileItem), Service(FileContent), Service(AllFiles)

files.get(permission=Permission.READ, schema=Expects(query=FilesPage()))(answers.page)
file.get(permission=Permission.READ)(answers.show)
all_files.get(permission=Permission.READ, schema=Expects(query=AllFilesPage()))(answers.page)


@files.post(permission=Permission.WRITE)
def create(files: Files, request: Any) -> dict[str, Any]:
    """Upload a file as a form: `file` (or `blob`), and optionally `tags` (JSON) and `parent` (URL)."""
    if request.content_type != "multipart/form-data":
        raise HTTPUnsupportedMediaType("A file comes as multipart/form-data, or as the body of a PUT.")
    request.pause_transaction()
    form = receive(
        request.body_file_raw,
        request.headers["Content-Type"],
        request.content_length,
        lambda chunks: request.registry.store.put(chunks, request.registry.mlapi.upload_limit),
        file_fields={"file", "blob"},
        text_fields={"tags", "parent"},
    )
    said: dict[str, Any] = {"tags": tags_of(form.fields)}
    if "parent" in form.fields:
        said["parent_id"] = parent_at(form.fields["parent"], files, request)
    return keep(files, request, form.filename, form.blob, **said)


@files.put(permission=Permission.WRITE, schema=Expects(query=NewFile()))
def create_raw(files: Files, request: Any) -> dict[str, Any]:
    """Upload a file as the body of the request, under the `name` in the query string."""
    request.pause_transaction()
    blob = request.registry.store.put(read_chunks(request.body_file_raw), request.registry.mlapi.upload_limit)
    return keep(files, request, request.validated["query"]["name"], blob)


@file.patch(permission=Permission.WRITE, schema=Expects(body=FileChange()))
def update(file: FileItem, request: Any) -> FileItem:
    """Change a file's tags; its name and content never change."""
    request.db.get_one(File, file.id).tags = request.validated["body"]["tags"]
    request.db.flush()
    return file.fresh()


@file.delete(permission=Permission.WRITE)
def delete(file: FileItem, request: Any) -> dict[str, Any]:
    """Delete a file that no run used and no job made."""
    File.delete(request.db, file.id)
    return answers.deleted(files=1)


@content.get(permission=Permission.READ)
def show_content(content: FileContent, request: Any) -> Any:
    """Download a file, or the ranges of it that are asked for."""
    row = content.__parent__.row  # type: ignore[union-attr]
    return download(request.registry.store, row.sha256, row.size, row.name, request)


def keep(files: Files, request: Any, name: str, blob: Blob, **said: Any) -> dict[str, Any]:
    """Make a file of a blob that is stored."""
    try:
        file = File(owner_id=files.owner, name=plain_name(name), sha256=blob.sha256, size=blob.size, **said)
    except ValueError as error:
        raise Invalid.field("name", str(error)) from None
    request.db.add(file)
    request.db.flush()
    return answers.created(files[str(file.id)], request)


def tags_of(fields: dict[str, str]) -> Any:
    """The tags that a form's field holds as JSON."""
    try:
        return FileChange().deserialize({"tags": strict_json(fields.get("tags", "{}"))})["tags"]
    except colander.Invalid as invalid:
        raise Invalid(field_errors(invalid, "body")) from None


def parent_at(url: str, files: Files, request: Any) -> int:
    """The id of the user's file at a URL."""
    ids = references(FileItem, [url], "parent", **files.keys)
    if not File.owned(request.db, files.owner, ids):
        raise Invalid.field("parent", "There is no such file.")
    return ids[0]
