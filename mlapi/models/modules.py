"""Modules: code with a name, immutable versions, and functions."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict, Invalid
from mlapi.models import manifests
from mlapi.models.base import JsonObject, Numbered, check_slug, protect
from mlapi.models.options import Option
from mlapi.values import storable


class Module(Numbered):
    """The name of a series of versions."""

    __tablename__ = "modules"

    name: Mapped[str] = mapped_column(unique=True)


class ModuleVersion(Numbered):
    """A version of a module, identified by the SHA-256 of its canonical archive."""

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
    command: Mapped[list[str]]


class Function(Numbered):
    """A function of a module version: its options, input files and output tags."""

    __tablename__ = "functions"
    __table_args__ = (sa.UniqueConstraint("version_id", "name"), {"sqlite_autoincrement": True})

    version_id: Mapped[int] = mapped_column(sa.ForeignKey("module_versions.id"))
    name: Mapped[str]
    doctxt: Mapped[str]
    options: Mapped[list[JsonObject]]
    creates_new_files: Mapped[bool]
    modifies_input_files: Mapped[bool]
    expected_filetype: Mapped[str]
    optional_filetypes: Mapped[list[str]]
    output_tags: Mapped[list[JsonObject]]
    min_files: Mapped[int]
    max_files: Mapped[int | None]
    output_files: Mapped[list[str]]
    deterministic: Mapped[bool] = mapped_column(default=False)

    def problem_with_files(self, names: list[str]) -> str | None:
        """The reason why the function does not accept input files with these names, or None."""
        types = [kind for kind in (self.expected_filetype, *self.optional_filetypes) if kind]
        if self.expected_filetype:
            endings = tuple(f".{kind}" for kind in types)
            for name in names:
                if not name.lower().endswith(endings):
                    return f"{name!r} does not have a file type of {self.name}: {', '.join(types)}."
        if len(names) < self.min_files:
            return f"{self.name} takes at least {self.min_files} file(s), not {len(names)}."
        if self.max_files is not None and len(names) > self.max_files:
            return f"{self.name} takes at most {self.max_files} file(s), not {len(names)}."
        return None

    @property
    def signature(self) -> "Signature":
        """The function's id and options."""
        return Signature(self.id, [Option.from_json(option) for option in self.options])


class FunctionKey(NamedTuple):
    """The name of a function: its module, its own name, and optionally the SHA-256 of a module version."""

    module: str
    function: str
    version: str | None = None


class Signature(NamedTuple):
    """A function's id and options: what a task needs in order to check its arguments."""

    id: int
    options: list[Option]


def register(
    db: Session, name: str, manifest: manifests.Manifest, digest: str, size: int
) -> tuple[ModuleVersion, bool]:
    """Register a module version; returns it and whether it is new: registered content returns its version.

    Raises `Invalid` for a name that is not a slug.
    """
    check_slug(name)
    module = db.scalar(sa.select(Module).where(Module.name == name).with_for_update())
    if module is None:
        module = Module(name=name)
        db.add(module)
        try:
            db.flush()
        except IntegrityError:
            raise Conflict(f"Module {name} is being registered by another request.") from None
    versions = sa.select(ModuleVersion).where(ModuleVersion.module_id == module.id)
    if (existing := db.scalar(versions.where(ModuleVersion.digest == digest))) is not None:
        return existing, False
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
        deterministic=described.deterministic,
    )


_any_version = sa.alias(ModuleVersion.__table__)
NEWEST = (
    sa.select(sa.func.max(_any_version.c.id))
    .where(_any_version.c.module_id == Module.__table__.c.id)
    .correlate(Module.__table__)
    .scalar_subquery()
)
"""The id of a module's newest version."""


_functions, _versions, _modules = Function.__table__, ModuleVersion.__table__, Module.__table__
_SIGNATURE = (
    sa.select(_functions.c.id, _functions.c.options)  # Of tables: a select of entities takes twice as long.
    .join(_versions, _functions.c.version_id == _versions.c.id)
    .join(_modules, _versions.c.module_id == _modules.c.id)
    .where(_modules.c.name == sa.bindparam("module"), _functions.c.name == sa.bindparam("function"))
)
_OF_NEWEST = protect(_SIGNATURE.where(_versions.c.id == NEWEST), Function)
_OF_VERSION = protect(_SIGNATURE.where(_versions.c.digest == sa.bindparam("version")), Function)


def find_function(db: Session, key: FunctionKey) -> Signature:
    """The function with this name, of the newest version if the key has none. Raises `Invalid` if not found.

    It is protected from deletion until the end of the transaction.
    """
    names = {name: value for name, value in key._asdict().items() if value is not None}
    row = None
    if all(map(storable, names.values())):
        row = db.execute(_OF_NEWEST if key.version is None else _OF_VERSION, names).first()
    if row is None:
        raise Invalid.field("function", "Function not found.")
    return Signature(row.id, [Option.from_json(option) for option in row.options])
