"""Modules, their versions, and the functions that each version offers."""

from typing import Any

import sqlalchemy as sa
from pyramid.authorization import Allow, Authenticated

from mlapi.models import Function, Module, ModuleVersion
from mlapi.models.modules import NEWEST
from mlapi.resources.base import Collection, Item
from mlapi.security import Permission

modules, versions, functions = (each.__table__.c for each in (Module, ModuleVersion, Function))


class OfferedFunction(Item):
    """A function of a module: its options, the files it takes, the tags it puts."""

    key = "function"
    columns = (
        functions.id,
        functions.name,
        functions.doctxt,
        functions.options,
        functions.creates_new_files,
        functions.modifies_input_files,
        functions.expected_filetype,
        functions.optional_filetypes,
        functions.output_tags,
        functions.min_files,
        functions.max_files,
        functions.output_files,
        versions.digest,
        modules.name.label("module"),
    )
    source = sa.join(Function.__table__, ModuleVersion.__table__, functions.version_id == versions.id).join(
        Module.__table__, versions.module_id == modules.id
    )
    by = functions.name

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A function; its URL names the version, so that it means the same for ever."""
        version = VersionItem.link(request, module=row.module, version=row.digest)
        return {
            "name": row.name,
            "url": f"{version}/functions/{row.name}",
            "module": ModuleItem.link(request, module=row.module),
            "version": version,
            "doctxt": row.doctxt,
            "options": row.options,
            "creates_new_files": row.creates_new_files,
            "modifies_input_files": row.modifies_input_files,
            "expected_filetype": row.expected_filetype,
            "optional_filetypes": row.optional_filetypes,
            "output_tags": row.output_tags,
            "input_files": {"minimum": row.min_files, "maximum": row.max_files},
            "output_files": row.output_files,
        }


class VersionFunction(OfferedFunction):
    """A function of one version of a module."""

    within = functions.version_id == versions.id


class FunctionItem(OfferedFunction):
    """A function of the newest version of a module."""

    within = functions.version_id == NEWEST


class Named(Collection):
    """A collection whose items are known by name."""

    def read_key(self, name: str) -> str:
        """Any name may be one; NUL is in none, and PostgreSQL refuses to look for it."""
        if "\0" in name:
            raise KeyError(name)
        return name


class VersionFunctions(Named):
    """The functions of one version of a module."""

    item = VersionFunction
    order = functions.id
    newest_first = False
    mine = functions.version_id


class Functions(Named):
    """The functions of the newest version of a module."""

    item = FunctionItem
    order = functions.id
    newest_first = False
    mine = functions.version_id

    def scope(self) -> dict[str, Any]:
        """The newest version, by its id."""
        return {"parent": self.__parent__.row.version_id}  # type: ignore[union-attr]


class VersionItem(Item):
    """A version of a module, known by the SHA-256 of its canonical archive."""

    key = "version"
    children = {"functions": VersionFunctions}
    columns = (
        versions.id,
        versions.number,
        versions.digest,
        versions.size,
        versions.display_name,
        versions.tagline,
        versions.doctxt,
        versions.icon_url,
        versions.command,
        versions.created,
        modules.name.label("module"),
    )
    source = sa.join(ModuleVersion.__table__, Module.__table__, versions.module_id == modules.id)
    by = versions.digest
    within = versions.module_id == modules.id

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A version, with links to its functions."""
        url = cls.link(request, module=row.module, version=row.digest)
        return {
            "version": row.digest,
            "url": url,
            "number": row.number,
            "module": ModuleItem.link(request, module=row.module),
            "size": row.size,
            "display_name": row.display_name,
            "tagline": row.tagline,
            "doctxt": row.doctxt,
            "icon_url": row.icon_url,
            "command": row.command,
            "created": row.created,
            "functions": f"{url}/functions",
        }


class Versions(Named):
    """The versions of a module, newest first."""

    item = VersionItem
    order = versions.id
    mine = versions.module_id


class ModuleItem(Item):
    """A module, described as its newest version describes it."""

    key = "module"
    children = {"functions": Functions, "versions": Versions}
    columns = (
        modules.id,
        modules.name,
        modules.created,
        versions.id.label("version_id"),
        versions.digest,
        versions.display_name,
        versions.tagline,
        versions.doctxt,
        versions.icon_url,
    )
    source = sa.join(Module.__table__, ModuleVersion.__table__, versions.id == NEWEST)
    by = modules.name

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A module, with links to its newest version, all versions, and functions."""
        url = cls.link(request, module=row.name)
        return {
            "name": row.name,
            "url": url,
            "display_name": row.display_name,
            "tagline": row.tagline,
            "doctxt": row.doctxt,
            "icon_url": row.icon_url,
            "created": row.created,
            "version": VersionItem.link(request, module=row.name, version=row.digest),
            "versions": f"{url}/versions",
            "functions": f"{url}/functions",
        }


class Modules(Named):
    """The modules; every user may read them, admins register them."""

    __acl__ = [(Allow, Authenticated, Permission.READ)]
    item = ModuleItem
    order = modules.id
