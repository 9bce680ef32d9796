"""Modules: code registered under a name, in versions that never change, each offering functions."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict
from mlapi.models import manifests
from mlapi.models.base import Numbered, check_slug
from mlapi.models.options import Option
from mlapi.schemas.types import storable


class Module(Numbered):
    """A name under which versions of some code are registered."""

    __tablename__ = "modules"

    name: Mapped[str] = mapped_column(unique=True)


class ModuleVersion(Numbered):
    """One content of a module, identified by the SHA-256 of its canonical archive."""

    __tablename__ = "module_versions"
    __table_args__ = (
        sa.UniqueConstraint("module_id", "digest"),
        sa.UniqueConstraint("module_id", "number"),
        {"sqlite_autoincrement": True},
    )

    module_id: Mapped[int] = mapped_column(sa.ForeignKey("modules.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(index=True)
    size: Mapped[int]
    display_name: Mapped[str]
    tagline: Mapped[str]
    doctxt: Mapped[str]
    icon_url: Mapped[str | None]
    command: Mapped[list[Any]]


class Function(Numbered):
    """What a version of a module offers: typed options, expected files, output tags."""

    __tablename__ = "functions"
    __table_args__ = (sa.UniqueConstraint("version_id", "name"), {"sqlite_autoincrement": True})

    version_id: Mapped[int] = mapped_column(sa.ForeignKey("module_versions.id"))
    name: Mapped[str]
    doctxt: Mapped[str]
    options: Mapped[list[Any]]
    creates_new_files: Mapped[bool]
    modifies_input_files: Mapped[bool]
    expected_filetype: Mapped[str]
    optional_filetypes: Mapped[list[Any]]
    output_tags: Mapped[list[Any]]
    min_files: Mapped[int]
    max_files: Mapped[int | None]
    output_files: Mapped[list[Any]]

    def misfits(self, names: list[str]) -> str | None:
        """Why files of these names are none that the function takes, or None where they are."""
        types = [kind for kind in (self.expected_filetype, *self.optional_filetypes) if kind]
        if self.expected_filetype:
            for name in names:
                if not name.lower().endswith(tuple(f".{kind}" for kind in types)):
                    return f"{name!r} is not of a type that {self.name} takes: {', '.join(types)}."
        if len(names) < self.min_files:
            return f"{self.name} takes at least {self.min_files} file(s), not {len(names)}."
        if self.max_files is not None and len(names) > self.max_files:
            return f"{self.name} takes at most {self.max_files} file(s), not {len(names)}."
        return None


def register(
    db: Session, name: str, manifest: manifests.Manifest, digest: str, size: int
) -> tuple[ModuleVersion, bool]:
    """Register content under `name`; returns its version and whether it is new.

    The same content again is the version that it already is. Raises `Invalid` where the name is no slug.
    """
    check_slug(name)
    module = db.scalar(sa.select(Module).where(Module.name == name).with_for_update())
    if module is None:
        module = Module(name=name)
        db.add(module)
        try:
            db.flush()
        except IntegrityError:
            raise Conflict(f"The module {name} is being registered by somebody else.") from None
    versions = sa.select(ModuleVersion).where(ModuleVersion.module_id == module.id)
    if (same := db.scalar(versions.where(ModuleVersion.digest == digest))) is not None:
        return same, False
    last = db.scalar(sa.select(sa.func.max(ModuleVersion.number)).where(ModuleVersion.module_id == module.id))
    version = ModuleVersion(
        module_id=module.id,
        number=(last or 0) + 1,
        digest=digest,
        size=size,
        display_name=manifest.display_name,
        tagline=manifest.tagline,
        doctxt=manifest.doctxt,
        icon_url=manifest.icon_url,
        command=list(manifest.command),
    )
    db.add(version)
    db.flush()
    for function in manifest.functions:
        db.add(_function(version, function))
    db.flush()
    return version, True


def _function(version: ModuleVersion, described: manifests.Function) -> Function:
    return Function(
        version_id=version.id,
        name=described.name,
        doctxt=described.doctxt,
        options=[option.as_json() for option in described.options],
        creates_new_files=described.creates_new_files,
        modifies_input_files=described.modifies_input_files,
        expected_filetype=described.expected_filetype,
        optional_filetypes=list(described.optional_filetypes),
        output_tags=list(described.output_tags),
        min_files=described.min_files,
        max_files=described.max_files,
        output_files=list(described.output_files),
    )


_any_version = sa.alias(ModuleVersion.__table__)
NEWEST = (
    sa.select(sa.func.max(_any_version.c.id))
    .where(_any_version.c.module_id == Module.__table__.c.id)
    .correlate(Module.__table__)
    .scalar_subquery()
)
"""The id of a module's newest version."""


def _function_of(version: Any) -> Any:
    """The SELECT of a function of a module, by names, in the version that a condition says."""
    function = Function.__table__.c
    return (
        sa.select(function.id, function.options)
        .select_from(
            sa.join(
                Function.__table__,
                ModuleVersion.__table__,
                function.version_id == ModuleVersion.__table__.c.id,
            ).join(Module.__table__, ModuleVersion.__table__.c.module_id == Module.__table__.c.id)
        )
        .where(
            Module.__table__.c.name == sa.bindparam("module"),
            function.name == sa.bindparam("function"),
            version,
        )
    )


_OF_NEWEST = _function_of(ModuleVersion.__table__.c.id == NEWEST)
_OF_VERSION = _function_of(ModuleVersion.__table__.c.digest == sa.bindparam("digest"))


class Offered(NamedTuple):
    """A function, as far as a task needs to know it."""

    id: int
    options: list[Option]


def find_function(db: Session, module: str, function: str, digest: str | None = None) -> Offered | None:
    """The function of that name, in the version of that digest or else in the newest, or None."""
    names = {"module": module, "function": function}
    if digest is not None:
        names["digest"] = digest
    if not all(map(storable, names.values())):
        return None
    row = db.execute(_OF_NEWEST if digest is None else _OF_VERSION, names).first()
    return None if row is None else Offered(row.id, [Option.from_json(option) for option in row.options])
