"""Modules: list, register, show, remove; their versions and functions."""

from functools import partial
from typing import Any

from pyramid.httpexceptions import HTTPUnsupportedMediaType

from mlapi.archives.intake import Intake, spool
from mlapi.http.forms import Form, read_form
from mlapi.models.deletion import delete_module
from mlapi.models.modules import register
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

ARCHIVE = Form(frozenset({"archive"}), frozenset({"name"}))
"""The form of a module."""


@modules.post(permission=Permission.REGISTER)
def create(modules: Modules, request: Any) -> dict[str, Any]:
    """Register a module from a form of `name` and `archive`; the same content is the same version."""
    if request.content_type != "multipart/form-data":
        raise HTTPUnsupportedMediaType("A module comes as multipart/form-data.")
    request.pause_transaction()
    settings = request.registry.mlapi
    intake = Intake(request.registry.store, settings.scratch_dir)
    with intake.temporary_file() as archive:
        form = read_form(
            ARCHIVE,
            request.body_file_raw,
            request.headers["Content-Type"],
            request.content_length,
            partial(spool, archive, settings.module_limit),
        )
        content = intake.store_archive(archive)
    name, blob = form.fields.get("name", ""), content.blob
    _, new = register(request.db, name, content.manifest, blob.sha256, blob.size)
    version = VersionItem.link(request, module=name, version=blob.sha256)
    return answers.created(modules[name], request, new) | {"registered": version}


@module.delete(permission=Permission.REGISTER)
def delete(module: ModuleItem, request: Any) -> dict[str, Any]:
    """Remove a module that no task or job was made with, all its versions with it."""
    return answers.deleted(modules=1, versions=delete_module(request.db, module.id))
