"""Modules: list, register, show, remove; their versions and functions."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import BinaryIO

from mlapi.archives.intake import Intake, write_archive
from mlapi.errors import FieldErrors
from mlapi.http.request import Request
from mlapi.models.base import check_slug
from mlapi.models.deletion import delete_module
from mlapi.models.modules import register
from mlapi.resources.modules import (
    FunctionItem,
    Functions,
    ModuleItem,
    Modules,
    RegisteredModule,
    VersionFunction,
    VersionFunctions,
    VersionItem,
    Versions,
)
from mlapi.schemas.modules import ModuleForm
from mlapi.security import Permission
from mlapi.service import ExpectedForm, Expects, Service, form_of
from mlapi.views import answers

modules, module = Service(Modules), Service(ModuleItem)
versions, version = Service(Versions), Service(VersionItem)
functions, function = Service(Functions), Service(FunctionItem)
version_functions, version_function = Service(VersionFunctions), Service(VersionFunction)

modules.get(permission=Permission.READ, schema=answers.listing(Modules))(answers.page)
versions.get(permission=Permission.READ, schema=answers.listing(Versions))(answers.page)
functions.get(permission=Permission.READ, schema=answers.listing(Functions))(answers.page)
version_functions.get(permission=Permission.READ, schema=answers.listing(VersionFunctions))(answers.page)
module.get(permission=Permission.READ)(answers.show)
version.get(permission=Permission.READ)(answers.show)
function.get(permission=Permission.READ)(answers.show)
version_function.get(permission=Permission.READ)(answers.show)


def spool(request: Request, chunks: Iterable[bytes]) -> BinaryIO:
    """Write an uploaded archive to a temporary file, deleted at the end of the request. Raises `TooLarge`."""
    lifetime = ExitStack()
    request.add_finished_callback(lambda _request: lifetime.close())
    file = lifetime.enter_context(intake(request).temporary_file())
    write_archive(file, request.settings.module_limit, chunks)
    return file


def intake(request: Request) -> Intake:
    """The intake of module archives into the store."""
    return Intake(request.store, request.settings.scratch_dir)


ARCHIVE = Expects(
    form=ExpectedForm.of("archive", schema=ModuleForm(), sink=spool),
    limit=form_of(lambda settings: settings.module_limit),
)


@modules.post(permission=Permission.REGISTER, schema=ARCHIVE)
def create(modules: Modules, request: Request) -> RegisteredModule:
    """Register a module version from a form of `name` and `archive`. Registered content keeps its version."""
    [upload], name = request.validated.files, request.validated["form"]["name"]
    errors = FieldErrors()
    with errors.collect():
        check_slug(name)
    with errors.collect():
        content = intake(request).store_archive(upload.content)
    errors.raise_all()
    blob = content.blob
    _, new = register(request.db, name, content.manifest, blob.sha256, blob.size)
    registered = modules.link("version", module=name, version=blob.sha256)
    return {**answers.created(modules[name], request, new), "registered": registered}


@module.delete(permission=Permission.REGISTER)
def delete(module: ModuleItem, request: Request) -> answers.Deletion:
    """Remove a module, with all its versions, that no task or job refers to."""
    return answers.deletion(modules=1, versions=delete_module(request.db, module.id))
