"""The manifest of a module: what it is, what it runs, and the functions it offers.

`mlsploit_module.yaml` is MLsploit's own; `mlapi.yaml` may say more: a command, the bounds of options, how
many files a function takes and which it writes.
"""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import colander

from mlapi.models.options import TYPES, Option
from mlapi.schemas.plain_yaml import BadYaml, load
from mlapi.schemas.types import INT64, Exact, Flag, List, Object, Real, Text, Whole, storable

MLSPLOIT, OWN = "mlsploit_module.yaml", "mlapi.yaml"
COMMAND = ("python", "main.py")
SIZE_LIMIT = 256 * 1024
ITEMS_LIMIT = 200
ERRORS_LIMIT = 200
"""Where errors end: the functions after those that have this many are not looked at."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
HOST, PATH = r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]{1,5})?", r"[A-Za-z0-9_.~!$&'()*+,;=:@%/-]*"
ICON = re.compile(rf"https?://{HOST}/{PATH}\.(jpg|jpeg|png|svg)\Z")


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
    module, function = (OwnModule(), OwnFunction()) if name == OWN else (MLsploitModule(), MLsploitFunction())
    described, errors = _shape(module, document)
    functions = []
    if isinstance(document, dict):
        for key, text in _command_problems(document, folder):
            errors.setdefault(key, text)
        if "functions" not in errors:
            functions = _functions(function, document["functions"], errors)
    if errors:
        raise BadManifest(list(errors.items()))
    return _manifest(described, functions)


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


class _Items(List):
    """A list of which the length is looked at before the items are."""

    def deserialize(self, node: Any, cstruct: Any, accept_scalar: Any = None) -> Any:
        if isinstance(cstruct, list) and len(cstruct) > ITEMS_LIMIT:
            raise colander.Invalid(node, f"Must have at most {ITEMS_LIMIT} items.")
        return super().deserialize(node, cstruct, accept_scalar)


class _Functions(Exact):
    """A list of functions, which are looked at one by one."""

    python, words = list, f"a list of 1 to {ITEMS_LIMIT} functions"

    def holds(self, value: Any) -> bool:
        return super().holds(value) and 1 <= len(value) <= ITEMS_LIMIT


class _Strings(Exact):
    """A list of strings, each with a length within bounds."""

    def __init__(self, items: tuple[int, int], length: tuple[int, int]) -> None:
        self.items, self.length = items, length
        self.words = f"a list of {items[0]} to {items[1]} strings of {length[0]} to {length[1]} characters"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, list) or not self.items[0] <= len(value) <= self.items[1]:
            return False
        return all(
            isinstance(each, str) and storable(each) and self.length[0] <= len(each) <= self.length[1] for each in value
        )


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


def _file_patterns(node: Any, value: list[str]) -> None:
    if any(not each.isprintable() or set(each) & {"/", "\\"} or each in (".", "..") for each in value):
        raise colander.Invalid(node, "Must be names of files, or patterns such as *.png, without folders.")


def _at_most(node: Any, value: dict[str, Any]) -> None:
    if value["maximum"] is not None and value["maximum"] < value["minimum"]:
        raise colander.Invalid(node, "The maximum must not be below the minimum.")


def _text(*validators: Any, **settings: Any) -> colander.SchemaNode:
    return colander.SchemaNode(Text(), validator=colander.All(*validators), **settings)


def _list(child: colander.SchemaNode) -> colander.SchemaNode:
    return colander.SchemaNode(_Items(), child, missing=())


def _strings(items: tuple[int, int], length: tuple[int, int], **settings: Any) -> colander.SchemaNode:
    return colander.SchemaNode(_Strings(items, length), **settings)


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
    enum_values = _strings((1, 1000), (0, 1000), missing=None)
    default = colander.SchemaNode(_Scalar(), missing=None)


class _OwnOption(_Option):
    minimum = colander.SchemaNode(_Bound(), missing=None)
    maximum = colander.SchemaNode(_Bound(), missing=None)


class MLsploitFunction(_Schema):
    """The shape of a function in mlsploit_module.yaml."""

    name = _text(colander.Regex(NAME, "Must be 1 to 64 of A-Z, a-z, 0-9 and, after the first, _ . -"))
    doctxt = _text()
    options = _list(_Option())
    creates_new_files = colander.SchemaNode(Flag())
    modifies_input_files = colander.SchemaNode(Flag())
    expected_filetype = _text(colander.Length(max=50))
    optional_filetypes = _strings((0, ITEMS_LIMIT), (0, 50), missing=())
    output_tags = _list(_Tag())


class _InputFiles(_Schema):
    minimum = colander.SchemaNode(Whole(), validator=colander.Range(min=0), missing=1)
    maximum = colander.SchemaNode(Whole(), validator=colander.Range(min=0), missing=None)


class OwnFunction(MLsploitFunction):
    """The shape of a function in mlapi.yaml."""

    options = _list(_OwnOption())
    input_files = _InputFiles(validator=_at_most, missing={"minimum": 1, "maximum": None})
    output_files = _strings((0, ITEMS_LIMIT), (1, 255), validator=_file_patterns, missing=())


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
    functions = colander.SchemaNode(_Functions())


class OwnModule(MLsploitModule):
    """The shape of mlapi.yaml."""

    command = _strings((1, 32), (1, 1000), missing=None)


def _shape(schema: colander.SchemaNode, value: Any) -> tuple[Any, dict[str, str]]:
    """What the schema makes of `value`, and what is wrong with it by dotted names."""
    try:
        return schema.deserialize(value), {}
    except colander.Invalid as invalid:
        return None, invalid.asdict()


def _functions(schema: colander.SchemaNode, values: list[Any], errors: dict[str, str]) -> list[Any]:
    """What the schema makes of each function; what is wrong with them is added to `errors`."""
    functions = []
    for number, value in enumerate(values):
        if len(errors) > ERRORS_LIMIT:
            break
        described, wrong = _shape(schema, value)
        if isinstance(value, dict):
            for name, text in _spanning_problems(value, wrong):
                wrong.setdefault(name, text)
        errors.update({f"functions.{number}.{name}".rstrip("."): text for name, text in wrong.items()})
        functions.append(described)
    for name, text in _repeated("functions", values):
        errors.setdefault(name, text)
    return functions


def _spanning_problems(function: dict[str, Any], wrong: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong between fields; those that are wrong in themselves are taken for not there."""
    broken: dict[str, set[str]] = defaultdict(set)
    for name in wrong:
        place, _, key = name.rpartition(".")
        broken[place].add(key)
    for key in ("options", "output_tags"):
        if isinstance(function.get(key), list):
            yield from _repeated(key, function[key])
    options = function.get("options")
    for number, option in enumerate(options if options and "options" not in wrong else []):
        place = f"options.{number}"
        if isinstance(option, dict):
            sound = {k: v for k, v in option.items() if v is not None and k not in broken[place]}
            yield from ((f"{place}.{key}", text) for key, text in _option_problems(sound))


def _repeated(key: str, values: list[Any]) -> Iterator[tuple[str, str]]:
    seen = set()
    for number, value in enumerate(values):
        name = value.get("name") if isinstance(value, dict) else None
        if isinstance(name, str) and name in seen:
            yield f"{key}.{number}.name", f"The name {name} is there twice."
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


def _manifest(described: dict[str, Any], functions: list[dict[str, Any]]) -> Manifest:
    return Manifest(
        display_name=described["display_name"],
        tagline=described["tagline"],
        doctxt=described["doctxt"],
        icon_url=described["icon_url"],
        command=tuple(described.get("command") or COMMAND),
        functions=tuple(map(_function, functions)),
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
    return option if option.default is None else replace(option, default=option.kept(option.default))


def _file_type(text: str) -> str:
    return text.lower().strip(" .")
