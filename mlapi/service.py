"""A cornice service bound to a class of the tree; the only file that knows cornice's insides.

The route names the place, which is read off the tree; the tree finds and guards; what is expected of body and
query string is checked here, before the view, and strictly.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import colander
import cornice
from pyramid.httpexceptions import HTTPBadRequest, HTTPUnsupportedMediaType

from mlapi.errors import FieldError
from mlapi.http.bodies import read_whole
from mlapi.http.problems import InvalidRequest
from mlapi.resources import Root
from mlapi.resources.base import Node


@dataclass(frozen=True)
class Expects:
    """What a view expects of the request: schemas of the JSON body and of the query string."""

    body: colander.Schema | None = None
    query: colander.Schema | None = None


def check(request: Any, schema: Expects | None = None, **_other: Any) -> None:
    """Put the valid body and query string into `request.validated`; raise `InvalidRequest` with all that is not."""
    if schema is None:
        return
    errors: dict[str, list[FieldError]] = {}
    for name, location, found in (("query", "querystring", query_of), ("body", "body", json_of)):
        if (expected := getattr(schema, name)) is not None:
            try:
                request.validated[name] = expected.deserialize(found(request))
            except colander.Invalid as invalid:
                errors[location] = list(field_errors(invalid))
    if errors:
        raise InvalidRequest(errors)


def json_of(request: Any) -> Any:
    """The JSON of a request's body, with nothing that JSON does not have; raises 400, 413 and 415."""
    if request.content_type != "application/json":
        raise HTTPUnsupportedMediaType("The body must be application/json.")
    return strict_json(read_whole(request.body_file_raw, request.content_length, request.registry.mlapi.body_limit))


def strict_json(text: bytes | str) -> Any:
    """Parse JSON; raises 400 for what is none, also for duplicate keys, NaN, and nesting without end."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return _DECODER.decode(text)
    except RecursionError:
        raise HTTPBadRequest("The body nests too deep.") from None
    except ValueError as error:
        raise HTTPBadRequest(f"The body is not JSON: {error}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is beyond what a number holds")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer, parse_float=_float, object_pairs_hook=_object)


def query_of(request: Any) -> dict[str, str]:
    """The parameters of the query string; raises `InvalidRequest` where one is given twice."""
    given = request.GET
    found = dict(given)
    if len(found) != len(given):
        twice = sorted({name for name in given if len(given.getall(name)) > 1})
        raise InvalidRequest({"querystring": [FieldError(name, "Given more than once.") for name in twice]})
    return found


def field_errors(invalid: colander.Invalid) -> Iterator[FieldError]:
    """Every error of a colander exception, with its dotted name; half a character in it is escaped."""
    for name, description in invalid.asdict(separator=" ").items():
        written = name.removeprefix(".").encode("utf-8", "backslashreplace").decode()
        yield FieldError(written, description)


class Service(cornice.Service):
    """A cornice service that answers for one class of resource, where the tree keeps it."""

    default_validators = [check]

    def __init__(self, context: type[Node], **kw: Any) -> None:
        self.context = context
        place = {"path": context.path, "traverse": context.path, "factory": Root, "context": context}
        super().__init__(context.__name__, depth=2, renderer="json", **place, **kw)

    def decorator(self, method: str, **kw: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a view that is called as Pyramid calls its own: context, then request."""

        def register(view: Callable[..., Any]) -> Callable[..., Any]:
            if "permission" not in kw:
                raise TypeError(f"{view.__qualname__} must name its permission")

            @functools.wraps(view)
            def called(request: Any) -> Any:
                return view(request.context, request)

            self.add_view(method, called, **kw)
            return view

        return register
