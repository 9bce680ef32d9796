"""Modules: list, register, show, remove; their versions and functions."""

from typing import Any

from pyramid.httpexceptions import HTTPUnsupportedMediaType

from mlapi.models import Module
from mlapi.models.modules import register, remove
from mlapi.registration import Spool, keep_archive
from mlapi.resources.modules import (
    FunctionItem,
    Functions,
    ModuleItem,
    Modules,
    VersionFunction,
    VersionFunctions,
    VersionItem,
    Versions,
)
from mlapi.schemas.pages import Page
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.uploads import receive
from mlapi.views import answers

modules, module = Service(Modules), Service(ModuleItem)
versions, version = Service(Versions), Service(VersionItem)
functions, function = Service(Functions), Service(FunctionItem)
version_functions, version_function = Service(VersionFunctions), Service(VersionFunction)

modules.get(permission=Permission.READ, schema=Expects(query=Page()))(answers.page)
versions.get(permission=Permission.READ, schema=Expects(query=Page()))(answers.page)
functions.get(permission=Permission.READ, schema=Expects(query=Page()))(answers.page)
version_functions.get(permission=Permission.READ, schema=Expects(query=Page()))(answers.page)
module.get(permission=Permission.READ)(answers.show)
version.get(permission=Permission.READ)(answers.show)
function.get(permission=Permission.READ)(answers.show)
version_function.get(permission=Permission.READ)(answers.show)


@modules.post(permission=Permission.REGISTER)
def create(modules: Modules, request: Any) -> dict[str, Any]:
    """Register a module from an archive, as a form of `name` and `archive`; the same content is the same version."""
    if request.content_type != "multipart/form-data":
        raise HTTPUnsupportedMediaType("A module comes as multipart/form-data.")
    request.pause_transaction()
    with Spool(request.registry.mlapi.module_limit) as spool:
        form = receive(
            request.body_file_raw,
            request.headers["Content-Type"],
            request.content_length,
            spool.put,
            file_fields={"archive"},
            text_fields={"name"},
        )
        content = keep_archive(request.registry.store, spool.file)
    name = form.fields.get("name", "")
    _, new = register(request.db, name, content.manifest, content.blob.sha256, content.blob.size)
    return answers.created(modules[name], request, new)


@module.delete(permission=Permission.REGISTER)
def delete(module: ModuleItem, request: Any) -> dict[str, Any]:
    """Remove a module that no task or job was made with, all its versions with it."""
    gone = remove(request.db, request.db.get_one(Module, module.id))
    return answers.deleted(modules=1, versions=gone)
