"""Files: list, upload, show, download, change tags, delete."""

from functools import partial
from typing import Any

import colander
from pyramid.httpexceptions import HTTPBadRequest, HTTPUnsupportedMediaType

from mlapi.errors import Conflict, Invalid, all_of
from mlapi.http.bodies import read_chunks
from mlapi.http.downloads import download
from mlapi.http.forms import Form, read_form
from mlapi.models import files as rules
from mlapi.models.deletion import Held, delete_file
from mlapi.resources.base import match, references
from mlapi.resources.files import AllFiles, FileContent, FileItem, Files
from mlapi.schemas.files import FileChange, NewFile
from mlapi.schemas.pages import AllFilesPage, FilesPage
from mlapi.security import Permission
from mlapi.service import Expects, Service, field_errors, strict_json
from mlapi.storage import Blob
from mlapi.views import answers

files, file, content, all_files = Service(Files), Service(FileItem), Service(FileContent), Service(AllFiles)

files.get(permission=Permission.READ, schema=Expects(query=FilesPage()))(answers.page)
file.get(permission=Permission.READ)(answers.show)
all_files.get(permission=Permission.READ, schema=Expects(query=AllFilesPage()))(answers.page)

UPLOAD = Form(frozenset({"file", "blob"}), frozenset({"tags", "parent"}))
"""The form of a file."""


@files.post(permission=Permission.WRITE)
def create(files: Files, request: Any) -> dict[str, Any]:
    """Upload a file as a form: `file` (or `blob`), and optionally `tags` (JSON) and `parent` (URL)."""
    if request.content_type != "multipart/form-data":
        raise HTTPUnsupportedMediaType("A file comes as multipart/form-data, or as the body of a PUT.")
    request.pause_transaction()
    form = read_form(
        UPLOAD,
        request.body_file_raw,
        request.headers["Content-Type"],
        request.content_length,
        lambda chunks: request.registry.store.put(chunks, request.registry.mlapi.upload_limit),
    )
    (sent,) = form.files
    return keep(files, request, sent.name, sent.blob, **said_of(form.fields, files, request))


@files.put(permission=Permission.WRITE, schema=Expects(query=NewFile()))
def create_raw(files: Files, request: Any) -> dict[str, Any]:
    """Upload a file as the body of the request, under the `name` in the query string."""
    request.pause_transaction()
    blob = request.registry.store.put(read_chunks(request.body_file_raw), request.registry.mlapi.upload_limit)
    return keep(files, request, request.validated["query"]["name"], blob)


@file.patch(permission=Permission.WRITE, schema=Expects(body=FileChange()))
def update(file: FileItem, request: Any) -> FileItem:
    """Change a file's tags; its name and content never change."""
    rules.change_tags(request.db, file.id, request.validated["body"]["tags"])
    return file.fresh()


@file.delete(permission=Permission.WRITE)
def delete(file: FileItem, request: Any) -> dict[str, Any]:
    """Delete a file that no run used and no job made."""
    try:
        delete_file(request.db, file.id)
    except Held as held:
        raise Conflict(str(held), held_by=file.links_to(held.holders)) from None
    return answers.deleted(files=1)


@content.get(permission=Permission.READ)
def show_content(content: FileContent, request: Any) -> Any:
    """Download a file, or the ranges of it that are asked for."""
    row = content.__parent__.row  # type: ignore[union-attr]
    return download(request.registry.store, row.sha256, row.size, row.name, request)


def keep(files: Files, request: Any, name: str, blob: Blob, **said: Any) -> dict[str, Any]:
    """Make a file of a blob that is stored."""
    file = rules.create(request.db, files.owner, name, blob.sha256, blob.size, **said)
    return answers.created(files[str(file.id)], request)


def said_of(fields: dict[str, str], files: Files, request: Any) -> dict[str, Any]:
    """The tags and the parent that a form says; raises `Invalid` with all that is wrong with them."""
    readers = {"tags": ("tags", tags_in), "parent": ("parent_id", parent_at)}
    given = {column: (fields[name], read) for name, (column, read) in readers.items() if name in fields}
    return all_of({column: partial(read, text, files, request) for column, (text, read) in given.items()})


def tags_in(text: str, _files: Files, _request: Any) -> Any:
    """The tags that a text holds as JSON."""
    try:
        return FileChange().deserialize({"tags": strict_json(text)})["tags"]
    except HTTPBadRequest:
        raise Invalid.field("tags", "Must be JSON.") from None
    except colander.Invalid as invalid:
        raise Invalid(field_errors(invalid)) from None


def parent_at(url: str, files: Files, _request: Any) -> int:
    """The id of the user's file at a URL."""
    if match((FileItem,), url) is None:
        raise Invalid.field("parent", f"Must be a URL like {FileItem.path}.")
    return references(FileItem, [url], "parent", **files.keys)[0]
