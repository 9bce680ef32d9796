"""The manifest of a module: what it is, what it runs, and the functions it offers.

`mlsploit_module.yaml` is MLsploit's own; `mlapi.yaml` may say more: a command, the bounds of options, how
many files a function takes and which it writes.
"""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import colander

from mlapi.models.options import TYPES, Option
from mlapi.schemas.plain_yaml import BadYaml, load
from mlapi.schemas.types import INT64, Exact, Flag, List, Object, Real, Text, Whole

MLSPLOIT, OWN = "mlsploit_module.yaml", "mlapi.yaml"
COMMAND = ("python", "main.py")
SIZE_LIMIT = 256 * 1024
ICON = re.compile(
    r"https?://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]{1,5})?/[^\s?#\\]*\.(jpg|jpeg|png|svg)\Z", re.ASCII
)


class BadManifest(ValueError):
    """A manifest that breaks a rule; `errors` gives the dotted name and the reason of each."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        self.errors = [(name[:200], text[:400]) for name, text in errors]
        super().__init__("\n".join(f"{name or 'manifest'}: {text}" for name, text in self.errors))


@dataclass(frozen=True, slots=True)
class Function:
    """What a module offers to do, and with which options and files."""

    name: str
    doctxt: str
    options: tuple[Option, ...]
    creates_new_files: bool
    modifies_input_files: bool
    expected_filetype: str
    optional_filetypes: tuple[str, ...]
    output_tags: tuple[dict[str, str], ...]
    min_files: int
    max_files: int | None
    output_files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a module says of itself."""

    display_name: str
    tagline: str
    doctxt: str
    icon_url: str | None
    command: tuple[str, ...]
    functions: tuple[Function, ...]


def read(folder: Path) -> Manifest:
    """Return the manifest at the root of a module, or raise `BadManifest` with everything wrong with it."""
    name, text = _find(folder)
    try:
        document = load(text)
    except BadYaml as error:
        raise BadManifest([(error.name, str(error))]) from error
    schema = OwnModule() if name == OWN else MLsploitModule()
    errors: dict[str, str] = {}
    try:
        described = schema.deserialize(document)
    except colander.Invalid as invalid:
        errors = invalid.asdict()
    if isinstance(document, dict):
        for where, problem in (*_spanning_problems(document, errors), *_command_problems(document, folder)):
            errors.setdefault(where, problem)
    if errors:
        raise BadManifest(list(errors.items()))
    return _manifest(described)


def _find(folder: Path) -> tuple[str, str]:
    found = [name for name in (MLSPLOIT, OWN) if os.path.lexists(folder / name)]
    if len(found) != 1:
        many = "both" if found else "neither"
        raise BadManifest([("", f"There must be one of {MLSPLOIT} and {OWN} at the root; there is {many}.")])
    path = folder / found[0]
    if not stat.S_ISREG(path.lstat().st_mode):
        raise BadManifest([("", f"{path.name} must be a regular file.")])
    with path.open("rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise BadManifest([("", f"{path.name} is larger than {SIZE_LIMIT} bytes.")])
    try:
        return path.name, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadManifest([("", f"{path.name} is not UTF-8: {error.reason}.")]) from error


class _Mapping(Object):
    """A mapping in which a key that may be left out may be null as well."""

    def _impl(self, node: Any, value: Any, callback: Any, default_or_missing: Any = None) -> Any:
        if isinstance(value, dict):
            optional = {child.name for child in node.children if not child.required}
            value = {key: each for key, each in value.items() if each is not None or key not in optional}
        return super()._impl(node, value, callback, default_or_missing)


class _Scalar(Exact):
    python, words = (str, int, float), "a string, a number, or true or false"

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool) or super().holds(value)


class _Bound(Real):
    words = "a finite number, and if it is an integer, one of 64 bits"

    def holds(self, value: Any) -> bool:
        return super().holds(value) and (isinstance(value, float) or -INT64 <= value < INT64)


def _identifier(node: Any, value: str) -> None:
    if not value.isidentifier():
        raise colander.Invalid(node, "Must be an identifier as in Python: letters, digits and _.")


def _file_pattern(node: Any, value: str) -> None:
    if not value.isprintable() or set(value) & {"/", "\\"} or value in (".", ".."):
        raise colander.Invalid(node, "Must be a file's name or a pattern such as *.png, without a folder.")


def _at_most(node: Any, value: dict[str, Any]) -> None:
    if value["maximum"] is not None and value["maximum"] < value["minimum"]:
        raise colander.Invalid(node, "The maximum must not be below the minimum.")


def _text(*validators: Any, **settings: Any) -> colander.SchemaNode:
    return colander.SchemaNode(Text(), validator=colander.All(*validators), **settings)


def _list(child: colander.SchemaNode, **settings: Any) -> colander.SchemaNode:
    return colander.SchemaNode(List(), child, **settings)


class _Schema(colander.Schema):
    schema_type = _Mapping


class _Tag(_Schema):
    name = _text(colander.Length(1, 50))
    type = _text(colander.OneOf(("str", "int", "float")))


class _Option(_Schema):
    name = _text(_identifier, colander.Length(max=50))
    type = _text(colander.OneOf(TYPES))
    doctxt = _text()
    required = colander.SchemaNode(Flag())
    enum_values = _list(_text(), validator=colander.Length(1), missing=None)
    default = colander.SchemaNode(_Scalar(), missing=None)


class _OwnOption(_Option):
    minimum = colander.SchemaNode(_Bound(), missing=None)
    maximum = colander.SchemaNode(_Bound(), missing=None)


class _Function(_Schema):
    name = _text(
        colander.Regex(
            r"[A-Za-z0-9][A-Za-z0-9_.-]{0,24}\Z",
            "Must be 1 to 25 of A-Z, a-z, 0-9 and, after the first, _ . -",
        )
    )
    doctxt = _text()
    options = _list(_Option(), missing=())
    creates_new_files = colander.SchemaNode(Flag())
    modifies_input_files = colander.SchemaNode(Flag())
    expected_filetype = _text(colander.Length(max=50))
    optional_filetypes = _list(_text(colander.Length(max=50)), missing=())
    output_tags = _list(_Tag(), missing=())


class _InputFiles(_Schema):
    minimum = colander.SchemaNode(Whole(), validator=colander.Range(min=0), missing=1)
    maximum = colander.SchemaNode(Whole(), validator=colander.Range(min=0), missing=None)


class _OwnFunction(_Function):
    options = _list(_OwnOption(), missing=())
    input_files = _InputFiles(validator=_at_most, missing={"minimum": 1, "maximum": None})
    output_files = _list(_text(colander.Length(1, 255), _file_pattern), missing=())


class MLsploitModule(_Schema):
    """The shape of mlsploit_module.yaml."""

    display_name = _text(colander.Length(1, 50))
    tagline = _text(colander.Length(max=50))
    doctxt = _text()
    icon_url = _text(
        colander.Length(max=500),
        colander.Regex(ICON, "Must be an http(s) URL that ends in .jpg, .jpeg, .png or .svg"),
        missing=None,
    )
    functions = _list(_Function(), validator=colander.Length(1))


class OwnModule(MLsploitModule):
    """The shape of mlapi.yaml."""

    command = _list(_text(colander.Length(1, 1000)), validator=colander.Length(1, 32), missing=None)
    functions = _list(_OwnFunction(), validator=colander.Length(1))


Place = tuple[str, dict[str, Any]]


def _mappings(within: str, document: dict[str, Any], key: str) -> list[Place]:
    """The dotted names and the values of the mappings in a list, where there is one."""
    values = document.get(key)
    return [
        (f"{within}{key}.{number}", value)
        for number, value in enumerate(values if isinstance(values, list) else [])
        if isinstance(value, dict)
    ]


def _spanning_problems(document: dict[str, Any], errors: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong between fields; the fields that are wrong in themselves are taken for not there."""
    broken: dict[str, set[str]] = defaultdict(set)
    for name in errors:
        place, _, key = ".".join(name.split(".")[:5]).rpartition(".")
        broken[place].add(key)
    functions = _mappings("", document, "functions")
    yield from _repeated(functions)
    for where, function in functions:
        options = _mappings(f"{where}.", function, "options")
        yield from _repeated(options)
        yield from _repeated(_mappings(f"{where}.", function, "output_tags"))
        for place, option in options:
            sound = {k: v for k, v in option.items() if v is not None and k not in broken[place]}
            for key, text in _option_problems(sound):
                if key not in broken[place]:
                    yield f"{place}.{key}", text


def _repeated(places: list[Place]) -> Iterator[tuple[str, str]]:
    seen = set()
    for where, value in places:
        name = value.get("name")
        if isinstance(name, str) and name in seen:
            yield f"{where}.name", f"The name {name} is there twice."
        elif isinstance(name, str):
            seen.add(name)


def _option_problems(option: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kind, default, offered = option.get("type"), option.get("default"), option.get("enum_values")
    if kind is None:
        return
    yield from _bound_problems(kind, option)
    if kind == "enum" and offered is None:
        yield "enum_values", "An enum must offer values."
    elif kind != "enum" and offered is not None:
        yield "enum_values", "Only an enum offers values."
    if default is None:
        if kind == "enum":
            yield "default", "An enum needs a default."
        elif option.get("required") is False:
            yield "default", "An option that is not required needs a default."
    elif (kind != "enum" or offered) and (problem := _checker(option).problem_with(default)):
        yield "default", problem


def _checker(option: dict[str, Any]) -> Option:
    known = ("type", "enum_values", "minimum", "maximum")
    return Option.from_json({"name": "", **{key: option[key] for key in known if key in option}})


def _bound_problems(kind: str, option: dict[str, Any]) -> Iterator[tuple[str, str]]:
    bounds = {key: option[key] for key in ("minimum", "maximum") if key in option}
    for key, bound in bounds.items():
        if kind not in ("str", "int", "float"):
            yield key, "Only numbers and strings have bounds."
        elif kind != "float" and isinstance(bound, float):
            yield key, "Must be an integer."
        elif kind == "str" and bound < 0:
            yield key, "A length cannot be negative."
    if len(bounds) == 2 and bounds["maximum"] < bounds["minimum"]:
        yield "maximum", "Must not be below the minimum."


def _command_problems(document: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    program = folder / COMMAND[-1]
    if document.get("command") is None and not (program.is_file() and not program.is_symlink()):
        yield "command", f"There is no {program.name}, which is run where {OWN} names no command."


def _manifest(described: dict[str, Any]) -> Manifest:
    return Manifest(
        display_name=described["display_name"],
        tagline=described["tagline"],
        doctxt=described["doctxt"],
        icon_url=described["icon_url"],
        command=tuple(described.get("command") or COMMAND),
        functions=tuple(map(_function, described["functions"])),
    )


def _function(described: dict[str, Any]) -> Function:
    files = described.get("input_files", {"minimum": 0, "maximum": None})
    return Function(
        name=described["name"],
        doctxt=described["doctxt"],
        options=tuple(map(_option, described["options"])),
        creates_new_files=described["creates_new_files"],
        modifies_input_files=described["modifies_input_files"],
        expected_filetype=_file_type(described["expected_filetype"]),
        optional_filetypes=tuple(map(_file_type, described["optional_filetypes"])),
        output_tags=tuple(described["output_tags"]),
        min_files=files["minimum"],
        max_files=files["maximum"],
        output_files=tuple(described.get("output_files", ())),
    )


def _option(described: dict[str, Any]) -> Option:
    option = Option.from_json(described)
    if option.default is None:
        return option
    return Option.from_json({**described, "default": option.kept(option.default)})


def _file_type(text: str) -> str:
    return text.lower().strip(" .")
