"""Services: the methods of a class of resources, in every tree that contains it. Only this module uses cornice.

The tree locates and protects resources; routes are computed from the tree. Views declare what they expect of a request;
the service validates it before it calls the view, and reports all errors together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import colander
import cornice
import venusian
from pyramid.httpexceptions import HTTPBadRequest, HTTPUnsupportedMediaType

from mlapi import strict_json
from mlapi.errors import FieldError, Invalid
from mlapi.http.bodies import read_whole
from mlapi.http.forms import Form, read_form
from mlapi.http.problems import InvalidRequest
from mlapi.resources.tree import Node, Tree
from mlapi.storage import Blob

if TYPE_CHECKING:
    from mlapi.http.request import Request

Context = TypeVar("Context", bound=Node)
Answer = TypeVar("Answer")
View = Callable[[Context, "Request"], Answer]
Sink = Callable[["Request", Iterable[bytes]], object]


def store_upload(request: Request, chunks: Iterable[bytes]) -> Blob:
    """Store an uploaded file. Raises `TooLarge`."""
    blob: Blob = request.store.put(chunks, request.settings.upload_limit)
    return blob


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


def check(request: Request, schema: Expects | None = None, **_other: object) -> None:
    """Validate a request into `request.validated`. Raises `InvalidRequest` with all errors.

    A form, which may be large, is read last and only if the other parts are valid.
    """
    if schema is None:
        return
    errors: dict[str, list[FieldError]] = {}
    parts = (("query", "querystring", query_of), ("headers", "header", headers_of), ("body", "body", json_of))
    for name, location, read in parts:
        part: colander.Schema | None = getattr(schema, name)
        if part is not None:
            try:
                request.validated[name] = part.deserialize(read(request, part))
            except colander.Invalid as invalid:
                errors[location] = list(field_errors(invalid))
            except Invalid as invalid:
                errors[location] = invalid.errors
    if errors:
        raise InvalidRequest(errors)
    if schema.form is not None:
        read_form_of(request, schema.form)


def json_of(request: Request, _schema: colander.Schema) -> object:
    """The JSON body of a request. Raises 400, 413 and 415."""
    if request.content_type != "application/json":
        raise HTTPUnsupportedMediaType("Unsupported media type: expected application/json.")
    body = read_whole(request.body_file_raw, request.content_length, request.settings.body_limit)
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as error:
        raise HTTPBadRequest(f"The body is not JSON: {error}") from None


def query_of(request: Request, _schema: colander.Schema) -> dict[str, str]:
    """The parameters of the query string. Raises `Invalid` for repeated parameters."""
    parameters = request.GET
    found = dict(parameters)
    if len(found) != len(parameters):
        repeated = sorted({name for name in parameters if len(parameters.getall(name)) > 1})
        raise Invalid(FieldError(name, "Sent more than once.") for name in repeated)
    return found


def headers_of(request: Request, schema: colander.Schema) -> dict[str, str]:
    """The request headers that a schema contains."""
    return {node.name: request.headers[node.name] for node in schema.children if node.name in request.headers}


def read_form_of(request: Request, expected: ExpectedForm) -> None:
    """Read the form of a request, and pass its files to the sink. Raises 400, 413, 415 and `InvalidRequest`.

    The request holds no lock meanwhile, because the client may be slow.
    """
    media_types = expected.form.media_types
    if request.content_type not in media_types:
        raise HTTPUnsupportedMediaType(f"Unsupported media type: expected {' or '.join(media_types)}.")
    request.pause_transaction()
    data = read_form(
        expected.form,
        request.body_file_raw,
        request.headers["Content-Type"],
        request.content_length,
        functools.partial(expected.sink, request),
    )
    request.validated["files"] = data.files
    try:
        request.validated["form"] = expected.schema.deserialize(data.fields)
    except colander.Invalid as invalid:
        raise InvalidRequest({"body": list(field_errors(invalid))}) from None


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
