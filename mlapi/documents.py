"""The types of response documents, according to the type hints of the views."""

import datetime
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NotRequired, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from pyramid.response import Response

from mlapi.resources.items import Collection
from mlapi.resources.tree import Node, Url

NAMES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime.datetime: "time",
    Url: "URL",
    Any: "any value",
    type(None): "null",
}
"""The names of types in the documentation."""


def answer_of(view: Callable[..., object], context: type[Node]) -> Any:
    """The type of the document that a view returns for a context class; None for a view that returns bytes."""
    hint = get_type_hints(view, include_extras=True)["return"]
    if hint is Response:
        return None
    return _resolved(hint, context)


def _resolved(hint: Any, context: type[Node]) -> Any:
    """A type hint, with its type variables replaced by the documents of a context class."""
    item: Any = context.item if issubclass(context, Collection) else context
    if isinstance(hint, TypeVar):
        return item.summary_type if hint.__name__ == "Summary" else item.document_type
    if get_args(hint) and is_typeddict(get_origin(hint)):
        return get_origin(hint)[tuple(_resolved(argument, context) for argument in get_args(hint))]
    return hint


def members(document: Any) -> dict[str, Any]:
    """The types of the members of a document, by name."""
    generic = get_origin(document)
    if generic is None:
        hints = get_type_hints(document, include_extras=True)
        return {name: get_args(hint)[0] if get_origin(hint) is NotRequired else hint for name, hint in hints.items()}
    arguments = dict(zip(generic.__parameters__, get_args(document), strict=True))

    def bound(hint: Any) -> Any:
        parameters = getattr(hint, "__parameters__", ())
        return hint[tuple(arguments[parameter] for parameter in parameters)] if parameters else hint

    return {name: bound(hint) for name, hint in get_type_hints(generic, include_extras=True).items()}


def type_name(hint: Any) -> str:
    """The name of a type in the documentation."""
    if hint in NAMES:
        return NAMES[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin in (list, Sequence):
        return f"list of {type_name(arguments[0])}"
    if is_typeddict(hint):
        return f"`{hint.__name__}`"
    if is_typeddict(origin):
        return f"`{origin.__name__}` of {', '.join(map(type_name, arguments))}"
    return "object"


def nested(document: Any) -> Iterator[Any]:
    """A document and all documents nested in it."""
    if is_typeddict(document) or is_typeddict(get_origin(document)):
        yield document
        for hint in members(document).values():
            yield from nested(hint)
    else:
        for argument in get_args(document):
            yield from nested(argument)
