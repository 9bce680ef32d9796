"""Reading and validating the manifest at the root of a module: its description, its command and its functions.

`mlsploit_module.yaml` is the format of MLsploit. `mlapi.yaml` is a superset: a command, the bounds of options, and the
numbers and names of input and output files.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import colander

from mlapi.archives.manifest_schemas import (
    FilesDocument,
    FunctionDocument,
    MLsploitFunction,
    MLsploitModule,
    ModuleDocument,
    OptionDocument,
    OwnFunction,
    OwnModule,
)
from mlapi.archives.plain_yaml import BadYaml, load
from mlapi.models.manifests import Function, Manifest
from mlapi.models.options import Option

MLSPLOIT, OWN = "mlsploit_module.yaml", "mlapi.yaml"
COMMAND = ("python", "main.py")
SIZE_LIMIT = 256 * 1024
ERRORS_LIMIT = 200
"""The number of errors after which no further functions are validated."""


class BadManifest(ValueError):
    """An invalid manifest. `errors` has the dotted name and the reason of every error."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        self.errors = [(name[:200], text[:400]) for name, text in errors]
        super().__init__("\n".join(f"{name or 'manifest'}: {text}" for name, text in self.errors))


def read(folder: Path) -> Manifest:
    """Return the manifest at the root of a module, or raise `BadManifest` with every error."""
    name, text = _find(folder)
    try:
        document = load(text)
    except BadYaml as error:
        raise BadManifest([(error.name, str(error))]) from error
    module, function = (OwnModule(), OwnFunction()) if name == OWN else (MLsploitModule(), MLsploitFunction())
    values, errors = _deserialize(module, document)
    functions = []
    if isinstance(document, dict):
        for key, problem in _command_problems(document, folder):
            errors.setdefault(key, problem)
        if "functions" not in errors:
            functions = _functions(function, document["functions"], errors)
    if errors:
        raise BadManifest(list(errors.items()))
    return _manifest(values, functions)


def _find(folder: Path) -> tuple[str, str]:
    """Return the name and the text of the only manifest in a folder."""
    found = [name for name in (MLSPLOIT, OWN) if os.path.lexists(folder / name)]
    if len(found) != 1:
        count = "both" if found else "neither"
        raise BadManifest([("", f"Exactly one of {MLSPLOIT} and {OWN} is required at the root; found {count}.")])
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


def _deserialize(schema: colander.SchemaNode, value: object) -> tuple[Any, dict[str, str]]:
    """Return the deserialized value, and the errors by dotted names."""
    try:
        return schema.deserialize(value), {}
    except colander.Invalid as invalid:
        return None, invalid.asdict()


def _functions(schema: colander.SchemaNode, values: list[object], errors: dict[str, str]) -> list[FunctionDocument]:
    """Return the deserialized functions, and add what is wrong with them to `errors`."""
    functions = []
    for number, value in enumerate(values):
        if len(errors) > ERRORS_LIMIT:
            break
        function, problems = _deserialize(schema, value)
        if isinstance(value, dict):
            for name, text in _consistency_problems(value, problems):
                problems.setdefault(name, text)
        errors.update({f"functions.{number}.{name}".rstrip("."): text for name, text in problems.items()})
        functions.append(function)
    for name, text in _duplicate_names("functions", values):
        errors.setdefault(name, text)
    return functions


def _consistency_problems(function: dict[str, object], invalid: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the problems between fields. Fields that are `invalid` by themselves count as absent."""
    invalid_keys: dict[str, set[str]] = defaultdict(set)
    for name in invalid:
        parent, _, key = name.rpartition(".")
        invalid_keys[parent].add(key)
    for key in ("options", "output_tags"):
        if isinstance(values := function.get(key), list):
            yield from _duplicate_names(key, values)
    options = function.get("options")
    for number, option in enumerate(options if isinstance(options, list) and "options" not in invalid else []):
        parent = f"options.{number}"
        if isinstance(option, dict):
            valid = {k: v for k, v in option.items() if v is not None and k not in invalid_keys[parent]}
            yield from ((f"{parent}.{key}", text) for key, text in _option_problems(valid))


def _duplicate_names(key: str, values: list[object]) -> Iterator[tuple[str, str]]:
    seen = set()
    for number, value in enumerate(values):
        name = value.get("name") if isinstance(value, dict) else None
        if isinstance(name, str) and name in seen:
            yield f"{key}.{number}.name", f"Duplicate name: {name}."
        elif isinstance(name, str):
            seen.add(name)


def _option_problems(option: dict[str, object]) -> Iterator[tuple[str, str]]:
    kind, default, values = option.get("type"), option.get("default"), option.get("enum_values")
    if kind is None:
        return
    yield from _bound_problems(kind, option)
    if kind == "enum" and values is None:
        yield "enum_values", "An enum needs values."
    elif kind != "enum" and values is not None:
        yield "enum_values", "Only an enum has values."
    if default is None:
        if kind == "enum":
            yield "default", "An enum needs a default."
        elif option.get("required") is False:
            yield "default", "An option that is not required needs a default."
    elif (kind != "enum" or values) and (problem := _type_of(option).problem_with(default)):
        yield "default", problem


def _type_of(option: dict[str, object]) -> Option:
    """Return an option with the type, the values and the bounds of a partly invalid one."""
    keys = ("type", "enum_values", "minimum", "maximum")
    return Option.from_json({"name": "", **{key: option[key] for key in keys if key in option}})


def _bound_problems(kind: object, option: dict[str, object]) -> Iterator[tuple[str, str]]:
    bounds = {key: bound for key in ("minimum", "maximum") if isinstance(bound := option.get(key), int | float)}
    for key, bound in bounds.items():
        if kind not in ("str", "int", "float"):
            yield key, "Only numbers and strings have bounds."
        elif kind != "float" and isinstance(bound, float):
            yield key, "Must be an integer."
        elif kind == "str" and bound < 0:
            yield key, "A length cannot be negative."
    if len(bounds) == 2 and bounds["maximum"] < bounds["minimum"]:
        yield "maximum", "Must not be below the minimum."


def _command_problems(document: dict[str, object], folder: Path) -> Iterator[tuple[str, str]]:
    program = folder / COMMAND[-1]
    if document.get("command") is None and not (program.is_file() and not program.is_symlink()):
        yield "command", f"Required, because the default {program.name} is missing."


def _manifest(module: ModuleDocument, functions: list[FunctionDocument]) -> Manifest:
    return Manifest(
        display_name=module["display_name"],
        tagline=module["tagline"],
        doctxt=module["doctxt"],
        icon_url=module["icon_url"],
        command=tuple(module.get("command") or COMMAND),
        functions=tuple(map(_function, functions)),
    )


def _function(function: FunctionDocument) -> Function:
    files = function.get("input_files", FilesDocument(minimum=0, maximum=None))
    return Function(
        name=function["name"],
        doctxt=function["doctxt"],
        options=tuple(map(_option, function["options"])),
        creates_new_files=function["creates_new_files"],
        modifies_input_files=function["modifies_input_files"],
        expected_filetype=_file_type(function["expected_filetype"]),
        optional_filetypes=tuple(map(_file_type, function["optional_filetypes"])),
        output_tags=tuple(function["output_tags"]),
        min_files=files["minimum"],
        max_files=files["maximum"],
        output_files=tuple(function.get("output_files", ())),
        deterministic=function.get("deterministic", False),
    )


def _option(document: OptionDocument) -> Option:
    option = Option.from_json({**document})
    return option if option.default is None else replace(option, default=option.kept(option.default))


def _file_type(text: str) -> str:
    return text.lower().strip(" .")
