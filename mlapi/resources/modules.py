"""Modules, their versions and their functions."""

import datetime
from typing import TypedDict

import sqlalchemy as sa

from mlapi.models import Function, Module, ModuleVersion
from mlapi.models.base import JsonObject
from mlapi.models.modules import NEWEST
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import USERS_READ, Condition, Document, Item, Named, Summary
from mlapi.resources.tree import Linker, Url
from mlapi.security import Identity

modules, versions, functions = Module.__table__.c, ModuleVersion.__table__.c, Function.__table__.c


def join_function(source: sa.FromClause, function_id: sa.ColumnElement[int]) -> sa.Join:
    """A source, joined with the function of each row, its module version and its module."""
    return (
        source.join(Function.__table__, function_id == functions.id)
        .join(ModuleVersion.__table__, functions.version_id == versions.id)
        .join(Module.__table__, versions.module_id == modules.id)
    )


class FileCount(TypedDict):
    """The number of input files that a function accepts."""

    minimum: int
    maximum: int | None


class FunctionDocument(TypedDict):
    """A function of a module. Its `url` contains the version, so it always refers to the same code."""

    name: str
    url: Url
    module: Url
    version: Url
    doctxt: str
    options: list[JsonObject]
    creates_new_files: bool
    modifies_input_files: bool
    expected_filetype: str
    optional_filetypes: list[str]
    output_tags: list[JsonObject]
    input_files: FileCount
    output_files: list[str]
    deterministic: bool


class VersionDocument(TypedDict):
    """A version of a module."""

    version: str
    url: Url
    number: int
    module: Url
    size: int
    display_name: str
    tagline: str
    doctxt: str
    icon_url: str | None
    command: list[str]
    created: datetime.datetime
    functions: Url


class ModuleDocument(TypedDict):
    """A module, with the metadata of its newest version."""

    name: str
    url: Url
    display_name: str
    tagline: str
    doctxt: str
    icon_url: str | None
    created: datetime.datetime
    version: Url
    versions: Url
    functions: Url


class RegisteredModule(ModuleDocument):
    """A module, with the URL of the version that the request registered."""

    registered: Url


class PublicItem(Item[Summary, Document]):
    """An item that is visible to all callers."""

    @classmethod
    def visible(cls, identity: Identity) -> Condition:  # noqa: ARG003 - the same for all callers
        """All rows."""
        return sa.true()


class ModuleFunction(PublicItem[FunctionDocument, FunctionDocument]):
    """A function of a module: its options, the files it accepts, the tags it sets."""

    key = "function"
    fields = Fields(
        Field(functions.id, shown=False, sort=True),
        Field(functions.name),
        Field(functions.doctxt),
        Field(functions.options),
        Field(functions.creates_new_files),
        Field(functions.modifies_input_files),
        Field(functions.expected_filetype),
        Field(functions.optional_filetypes),
        Field(functions.output_tags),
        Field(functions.min_files, shown=False),
        Field(functions.max_files, shown=False),
        Field(functions.output_files),
        Field(functions.deterministic),
        Field(versions.digest, "version"),
        Field(modules.name, "module"),
    )
    source = sa.join(Function.__table__, ModuleVersion.__table__, functions.version_id == versions.id).join(
        Module.__table__, versions.module_id == modules.id
    )
    by = functions.name

    @classmethod
    def describe(cls, row: Row, link: Linker) -> FunctionDocument:
        """A function."""
        version = link("version", module=row.module, version=row.version)
        return {
            "name": row.name,
            "url": f"{version}/functions/{row.name}",
            "module": link("module", module=row.module),
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
            "deterministic": row.deterministic,
        }


class VersionFunction(ModuleFunction):
    """A function of one version of a module."""

    kind = "versioned function"
    within = functions.version_id == versions.id


class FunctionItem(ModuleFunction):
    """A function of the newest version of a module."""

    kind = "function"
    within = functions.version_id == NEWEST


class VersionFunctions(Named[VersionFunction]):
    """The functions of one version of a module."""

    item = VersionFunction
    newest_first = False
    few = True
    tied_by = functions.version_id


class Functions(Named[FunctionItem]):
    """The functions of the newest version of a module."""

    item = FunctionItem
    newest_first = False
    few = True
    tied_by = functions.version_id

    @property
    def parent_key(self) -> object:
        """The id of the newest version."""
        return self.parent.row.version_id


class VersionItem(PublicItem[VersionDocument, VersionDocument]):
    """A version of a module, identified by the SHA-256 of its canonical archive."""

    key = "version"
    children = {"functions": VersionFunctions}
    fields = Fields(
        Field(versions.id, shown=False, sort=True),
        Field(versions.number),
        Field(versions.digest, "version"),
        Field(versions.size),
        Field(versions.display_name),
        Field(versions.tagline),
        Field(versions.doctxt),
        Field(versions.icon_url),
        Field(versions.command),
        Field(versions.created),
        Field(modules.name, "module"),
    )
    source = sa.join(ModuleVersion.__table__, Module.__table__, versions.module_id == modules.id)
    by = versions.digest
    within = versions.module_id == modules.id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> VersionDocument:
        """A version, with a link to its functions."""
        url = link("version", module=row.module, version=row.version)
        return {
            "version": row.version,
            "url": url,
            "number": row.number,
            "module": link("module", module=row.module),
            "size": row.size,
            "display_name": row.display_name,
            "tagline": row.tagline,
            "doctxt": row.doctxt,
            "icon_url": row.icon_url,
            "command": row.command,
            "created": row.created,
            "functions": f"{url}/functions",
        }


class Versions(Named[VersionItem]):
    """The versions of a module, newest first."""

    item = VersionItem
    few = True
    tied_by = versions.module_id


class ModuleItem(PublicItem[ModuleDocument, ModuleDocument]):
    """A module, with the metadata of its newest version."""

    key = "module"
    children = {"functions": Functions, "versions": Versions}
    fields = Fields(
        Field(modules.id, shown=False, sort=True),
        Field(modules.name),
        Field(modules.created),
        Field(versions.id, "version_id", shown=False),
        Field(versions.digest, "version"),
        Field(versions.display_name),
        Field(versions.tagline),
        Field(versions.doctxt),
        Field(versions.icon_url),
    )
    source = sa.join(Module.__table__, ModuleVersion.__table__, versions.id == NEWEST)
    by = modules.name

    @classmethod
    def describe(cls, row: Row, link: Linker) -> ModuleDocument:
        """A module, with links to its newest version, all versions, and functions."""
        url = link("module", module=row.name)
        return {
            "name": row.name,
            "url": url,
            "display_name": row.display_name,
            "tagline": row.tagline,
            "doctxt": row.doctxt,
            "icon_url": row.icon_url,
            "created": row.created,
            "version": link("version", module=row.name, version=row.version),
            "versions": f"{url}/versions",
            "functions": f"{url}/functions",
        }


class Modules(Named[ModuleItem]):
    """Modules. All users can read them; administrators can register and remove them."""

    kind = "modules"
    item = ModuleItem
    __acl__ = USERS_READ
