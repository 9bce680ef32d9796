"""Schemas of manifests, and the types of the documents that they deserialize to."""

import re
from collections.abc import Callable
from typing import NotRequired, TypedDict

import colander

from mlapi.models.options import TYPES
from mlapi.schemas.types import Exact, Flag, List, Object, Real, Text, Whole
from mlapi.values import INT64, storable

ITEMS_LIMIT = 200
"""The maximum number of functions, options and other items of a list."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
HOST, PATH = r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]{1,5})?", r"[A-Za-z0-9_.~!$&'()*+,;=:@%/-]*"
ICON = re.compile(rf"https?://{HOST}/{PATH}\.(jpg|jpeg|png|svg)\Z")


class OptionDocument(TypedDict):
    """A deserialized option."""

    name: str
    type: str
    doctxt: str
    required: bool
    enum_values: list[str] | None
    default: str | float | bool | None
    minimum: NotRequired[float | None]
    maximum: NotRequired[float | None]


class FilesDocument(TypedDict):
    """The deserialized numbers of input files."""

    minimum: int
    maximum: int | None


class FunctionDocument(TypedDict):
    """A deserialized function."""

    name: str
    doctxt: str
    options: list[OptionDocument]
    creates_new_files: bool
    modifies_input_files: bool
    expected_filetype: str
    optional_filetypes: list[str]
    output_tags: list[dict[str, str]]
    input_files: NotRequired[FilesDocument]
    output_files: NotRequired[list[str]]
    deterministic: NotRequired[bool]


class ModuleDocument(TypedDict):
    """A deserialized module, without its functions."""

    display_name: str
    tagline: str
    doctxt: str
    icon_url: str | None
    command: NotRequired[list[str] | None]


class _Mapping(Object):
    """A mapping in which optional keys may be null."""

    def _impl(
        self, node: colander.SchemaNode, value: object, callback: object, default_or_missing: object = None
    ) -> object:
        if isinstance(value, dict):
            optional = {child.name for child in node.children if not child.required}
            value = {key: item for key, item in value.items() if item is not None or key not in optional}
        return super()._impl(node, value, callback, default_or_missing)


class _Functions(Exact):
    """A list of functions, which are deserialized one by one."""

    python, words = list, f"a list of 1 to {ITEMS_LIMIT} functions"

    def holds(self, value: object) -> bool:
        return isinstance(value, list) and 1 <= len(value) <= ITEMS_LIMIT


class _Strings(Exact):
    """A list of strings with bounded lengths."""

    def __init__(self, items: tuple[int, int], length: tuple[int, int]) -> None:
        self.items, self.length = items, length
        self.words = f"a list of {items[0]} to {items[1]} strings of {length[0]} to {length[1]} characters"

    def holds(self, value: object) -> bool:
        shortest, longest = self.length
        return (
            isinstance(value, list)
            and self.items[0] <= len(value) <= self.items[1]
            and all(isinstance(item, str) and storable(item) and shortest <= len(item) <= longest for item in value)
        )


class _Scalar(Exact):
    python, words = (str, int, float), "a string, a number, or true or false"

    def holds(self, value: object) -> bool:
        return isinstance(value, bool) or super().holds(value)


class _Bound(Real):
    words = "a finite number, and if it is an integer, one of 64 bits"

    def holds(self, value: object) -> bool:
        return super().holds(value) and (not isinstance(value, int) or -INT64 <= value < INT64)


def _identifier(node: colander.SchemaNode, value: str) -> None:
    if not value.isidentifier():
        raise colander.Invalid(node, "Must be an identifier as in Python: letters, digits and _.")


def _file_patterns(node: colander.SchemaNode, value: list[str]) -> None:
    if any(not name.isprintable() or set(name) & {"/", "\\"} or name in (".", "..") for name in value):
        raise colander.Invalid(node, "Must be names of files, or patterns such as *.png, without folders.")


def _ordered_bounds(node: colander.SchemaNode, value: FilesDocument) -> None:
    if value["maximum"] is not None and value["maximum"] < value["minimum"]:
        raise colander.Invalid(node, "The maximum must not be below the minimum.")


def _text(*validators: Callable[..., object], missing: object = colander.required) -> colander.SchemaNode:
    return colander.SchemaNode(Text(), validator=colander.All(*validators), missing=missing)


def _list(child: colander.SchemaNode) -> colander.SchemaNode:
    return colander.SchemaNode(List(ITEMS_LIMIT), child, missing=())


def _strings(
    items: tuple[int, int], length: tuple[int, int], missing: object, validator: Callable[..., object] | None = None
) -> colander.SchemaNode:
    return colander.SchemaNode(_Strings(items, length), missing=missing, validator=validator)


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
    """Schema of a function in mlsploit_module.yaml."""

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
    """Schema of a function in mlapi.yaml."""

    options = _list(_OwnOption())
    input_files = _InputFiles(validator=_ordered_bounds, missing={"minimum": 1, "maximum": None})
    output_files = _strings((0, ITEMS_LIMIT), (1, 255), missing=(), validator=_file_patterns)
    deterministic = colander.SchemaNode(Flag(), missing=False)


class MLsploitModule(_Schema):
    """Schema of mlsploit_module.yaml."""

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
    """Schema of mlapi.yaml."""

    command = _strings((1, 32), (1, 1000), missing=None)
