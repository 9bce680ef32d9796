"""Files: list, upload, show, download, change tags, delete."""

from pyramid.response import Response

from mlapi.errors import Conflict
from mlapi.http.bodies import read_chunks
from mlapi.http.downloads import download
from mlapi.http.request import Request
from mlapi.models import files as rules
from mlapi.models import reuse
from mlapi.models.deletion import Held, delete_file
from mlapi.resources.files import AllFiles, FileContent, FileDocument, FileItem, Files
from mlapi.schemas.files import FileChange, FileForm, NewFile
from mlapi.security import Permission
from mlapi.service import ExpectedForm, Expects, Service, form_of, uploaded_file
from mlapi.views import answers

UPLOAD = Expects(form=ExpectedForm.of("file", "blob", schema=FileForm()), limit=form_of(uploaded_file))

files, file, content, all_files = Service(Files), Service(FileItem), Service(FileContent), Service(AllFiles)

files.get(permission=Permission.READ, schema=answers.listing(Files))(answers.page)
file.get(permission=Permission.READ)(answers.show)
all_files.get(permission=Permission.READ, schema=answers.listing(AllFiles))(answers.page)


@files.post(permission=Permission.WRITE, schema=UPLOAD)
def create(files: Files, request: Request) -> FileDocument:
    """Upload a file as a form: `file` (or `blob`), and optionally `tags` (JSON) and `parent` (URL)."""
    [upload], fields = request.validated.files, request.validated["form"]
    blob, tags, parent = upload.content, fields.get("tags"), fields.get("parent")
    created = rules.create(request.db, files.parent.id, upload.name, blob.sha256, blob.size, tags, parent)
    return answers.created(files[str(created)], request)


@files.put(permission=Permission.WRITE, schema=Expects(query=NewFile(), raw=True, limit=uploaded_file))
def create_raw(files: Files, request: Request) -> FileDocument:
    """Upload a file as the raw body of the request, with its `name` in the query string."""
    request.pause_transaction()
    blob = request.store.put(read_chunks(request.body_file_raw), request.settings.upload_limit)
    name = request.validated["query"]["name"]
    created = rules.create(request.db, files.parent.id, name, blob.sha256, blob.size)
    return answers.created(files[str(created)], request)


@file.patch(permission=Permission.WRITE, schema=Expects(body=FileChange()))
def update(file: FileItem, request: Request) -> FileDocument:
    """Replace the tags of a file; its name and content are immutable."""
    rules.change_tags(request.db, file.id, request.validated["body"]["tags"])
    reuse.forget(request.db, file.id)
    return file.reload().document()


@file.delete(permission=Permission.WRITE)
def delete(file: FileItem, request: Request) -> answers.Deletion:
    """Delete a file that no run or job refers to."""
    try:
        delete_file(request.db, file.id)
    except Held as held:
        raise Conflict(str(held), held_by=file.links_to(held.holders)) from None
    return answers.deletion(files=1)


@content.get(permission=Permission.READ)
def show_content(content: FileContent, request: Request) -> Response:
    """Download a file, or a range of it."""
    row = content.item.row
    return download(request.store, row.sha256, row.size, row.name, request)
