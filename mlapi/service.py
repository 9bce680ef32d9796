"""Services: the methods of a class of resources, in every tree that contains it. Only this module uses cornice.

The tree locates and protects resources; routes are computed from the tree. Views declare what they expect of a request;
the service validates it before it calls the view, and reports all errors together.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import colander
import cornice
import venusian
from pyramid.httpexceptions import HTTPBadRequest, HTTPUnsupportedMediaType

from mlapi import strict_json
from mlapi.errors import DomainError, FieldError, Invalid, TooLarge
from mlapi.http.bodies import read_whole
from mlapi.http.forms import PARTS, TEXT, Form, read_form
from mlapi.http.heads import accept
from mlapi.http.problems import InvalidRequest
from mlapi.resources.tree import Node, Tree
from mlapi.storage import Blob

if TYPE_CHECKING:
    from mlapi.http.request import Request
    from mlapi.settings import Settings

Context = TypeVar("Context", bound=Node)
Answer = TypeVar("Answer")
View = Callable[[Context, "Request"], Answer]
Rules = Callable[[Context, "Request", dict[str, Any]], object]
Limit = Callable[["Settings"], int]
Sink = Callable[["Request", Iterable[bytes]], object]


def store_upload(request: Request, chunks: Iterable[bytes]) -> Blob:
    """Store an uploaded file. Raises `TooLarge`."""
    blob: Blob = request.store.put(chunks, request.settings.upload_limit)
    return blob


def json_body(settings: Settings) -> int:
    """The limit of a body, unless its view declares another."""
    return settings.body_limit


def uploaded_file(settings: Settings) -> int:
    """The limit of a body that is a file."""
    return settings.upload_limit


def form_of(content: Limit) -> Limit:
    """The limit of a form with content of this limit."""
    return lambda settings: content(settings) + TEXT * PARTS


@dataclass(frozen=True)
class ExpectedForm:
    """A form that a view expects: its fields, the schema of its text fields, and the function that stores its files."""

    form: Form
    schema: colander.Schema
    sink: Sink = store_upload

    @classmethod
    def of(cls, *files: str, schema: colander.Schema, sink: Sink = store_upload) -> ExpectedForm:
        """A form with one file, in a field of one of these names, and the text fields of a schema."""
        return cls(Form(frozenset(files), frozenset(node.name for node in schema.children)), schema, sink)


@dataclass(frozen=True)
class Expects:
    """What a view expects of a request: the schemas of its parts, or a form."""

    body: colander.Schema | None = None
    query: colander.Schema | None = None
    headers: colander.Schema | None = None
    form: ExpectedForm | None = None
    raw: bool = False
    """Whether the body is bytes of any type, which the view reads."""
    limit: Limit = json_body
    """The maximum size of the body; a larger one is refused before it is received."""
    rules: Rules[Any] | None = None
    """The rules of the model for the fields of the body, as a function that raises `Invalid`.

    If some fields are not valid, it is called with the others, so that the response has the errors of all fields. What
    it writes is rolled back. If all fields are valid, it is not called: the view applies the same rules.
    """

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types of the body; empty for any."""
        if self.form is not None:
            return self.form.form.media_types
        return () if self.body is None else ("application/json",)


NO_BODY = Expects()
"""What a view without a schema expects."""


def check(request: Request, schema: Expects | None = None, **_other: object) -> None:
    """Validate a request into `request.validated`. Raises `InvalidRequest` with all errors.

    A form, which may be large, is read last and only if the other parts are valid.
    """
    schema = schema or NO_BODY
    limit = check_head(request, schema)
    errors: dict[str, list[FieldError]] = {"querystring": [], "header": [], "body": []}
    if schema.query is not None:
        parameters, repeated = query_of(request)
        others = _validate(request, "query", schema.query, parameters)
        names = {error.name for error in repeated}
        errors["querystring"] = repeated + [error for error in others if error.name not in names]
    if schema.headers is not None:
        errors["header"] = _validate(request, "headers", schema.headers, headers_of(request, schema.headers))
    if not any(errors.values()):
        accept(request, limit)
    if schema.body is not None:
        body = json_of(request, limit)
        errors["body"] = _validate(request, "body", schema.body, body)
        if schema.rules is not None and any(errors.values()) and isinstance(body, dict):
            errors["body"] += broken_rules(request, schema.rules, schema.body, body)
    if any(errors.values()):
        raise InvalidRequest({location: found for location, found in errors.items() if found})
    if schema.form is not None:
        read_form_of(request, schema.form)


def check_head(request: Request, schema: Expects) -> int:
    """Check the size and the type of a body, according to the head. Returns the maximum size; raises 413 and 415."""
    limit = schema.limit(request.settings)
    if (request.content_length or 0) > limit:
        raise TooLarge(f"The body must have at most {limit} bytes.")
    media_types = schema.media_types
    if media_types and request.content_type not in media_types:
        raise HTTPUnsupportedMediaType(f"Unsupported media type: expected {' or '.join(media_types)}.")
    return limit


def _validate(request: Request, name: str, schema: colander.Schema, values: object) -> list[FieldError]:
    """Validate a part of a request into `request.validated`; returns its errors."""
    try:
        request.validated[name] = schema.deserialize(values)
    except colander.Invalid as invalid:
        return list(field_errors(invalid))
    return []


def broken_rules(
    request: Request, rules: Rules[Any], schema: colander.Schema, body: Mapping[str, object]
) -> list[FieldError]:
    """The errors of the rules of a model in the fields of a body that its schema accepts."""
    valid: dict[str, Any] = {}
    broken = set()
    for node in schema.children:
        try:
            value = node.deserialize(body.get(node.name, colander.null))
        except colander.Invalid:
            broken.add(node.name)
        else:
            valid |= {} if value is colander.drop else {node.name: value}
    with suppress(DomainError):  # A conflict is reported when all fields are valid.
        try:
            rules(request.context, request, valid)
        except Invalid as invalid:
            return [error for error in invalid.errors if error.name.partition(".")[0] not in broken]
    return []


def json_of(request: Request, limit: int) -> object:
    """The JSON body of a request. Raises 400 and 413."""
    body = read_whole(request.body_file_raw, request.content_length, limit)
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as error:
        raise HTTPBadRequest(f"The body is not JSON: {error}") from None


def query_of(request: Request) -> tuple[dict[str, str], list[FieldError]]:
    """The parameters of the query string, and the errors of repeated ones."""
    parameters = request.GET
    found = dict(parameters)
    if len(found) == len(parameters):
        return found, []
    repeated = sorted(name for name, count in Counter(parameters.keys()).items() if count > 1)
    return found, [FieldError(name, "Sent more than once.") for name in repeated]


def headers_of(request: Request, schema: colander.Schema) -> dict[str, str]:
    """The request headers that a schema contains."""
    return {node.name: request.headers[node.name] for node in schema.children if node.name in request.headers}


def read_form_of(request: Request, expected: ExpectedForm) -> None:
    """Read the form of a request, and pass its files to the sink. Raises 400, 413 and `InvalidRequest`.

    The request holds no lock meanwhile, because the client may be slow.
    """
    request.pause_transaction()
    data = read_form(
        expected.form,
        request.body_file_raw,
        request.headers["Content-Type"],
        request.content_length,
        functools.partial(expected.sink, request),
    )
    request.validated["files"] = data.files
    broken = {error.name for error in data.errors}
    others = _validate(request, "form", expected.schema, data.fields)
    if errors := data.errors + [error for error in others if error.name.partition(".")[0] not in broken]:
        raise InvalidRequest({"body": errors})


def field_errors(invalid: colander.Invalid) -> Iterator[FieldError]:
    """The errors of a colander exception, with dotted names in which lone surrogates are escaped."""
    for name, description in invalid.asdict(separator=" ").items():
        yield FieldError(name.removeprefix(".").encode("utf-8", "backslashreplace").decode(), description)


class PlacedService(cornice.Service):
    """A cornice service for one URL template of a tree."""

    default_validators = [check]

    def __init__(self, tree: Tree, context: type[Node], path: str) -> None:
        self.tree, self.context = tree, context
        place = {"path": path, "traverse": path.removeprefix(tree.prefix), "factory": tree, "context": context}
        super().__init__(f"{tree.name}:{path}", renderer="json", **place)


class Service:
    """The methods of a class of resources, registered for all its URL templates in all trees."""

    def __init__(self, context: type[Node]) -> None:
        self.context = context
        self.views: list[tuple[str, Callable[[Request], object], dict[str, object]]] = []
        venusian.attach(self, self._register, category="pyramid")

    def view(
        self, method: str, *, permission: str | None = None, schema: Expects | None = None
    ) -> Callable[[View[Context, Answer]], View[Context, Answer]]:
        """Decorator that adds a view: a function of the context and the request."""

        def register(view: View[Context, Answer]) -> View[Context, Answer]:
            if permission is None:
                raise TypeError(f"{view.__qualname__} must name its permission")

            @functools.wraps(view)
            def called(request: Request) -> Answer:
                return view(request.context, request)

            self.views.append((method, called, {"permission": permission, "schema": schema}))
            return view

        return register

    get = functools.partialmethod(view, "GET")
    post = functools.partialmethod(view, "POST")
    put = functools.partialmethod(view, "PUT")
    patch = functools.partialmethod(view, "PATCH")
    delete = functools.partialmethod(view, "DELETE")

    def _register(self, scanner: venusian.Scanner, _name: str, _service: Service) -> None:
        """Register the views for all URL templates of the class, in all trees."""
        for tree in scanner.config.registry.trees:
            for path in tree.paths(self.context):
                placed = PlacedService(tree, self.context, path)
                for method, view, arguments in self.views:
                    placed.add_view(method, view, **arguments)
                scanner.config.add_cornice_service(placed)
