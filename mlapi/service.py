"""Services: what can be done with the nodes of a class, in every tree that has them; cornice's only user.

The tree finds and guards; a route only names a place, which is read off the tree. What a view expects of the request
is declared, and checked here before the view, strictly and all at once.
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
    """Store an uploaded file; raises `TooLarge`."""
    blob: Blob = request.store.put(chunks, request.settings.upload_limit)
    return blob


@dataclass(frozen=True)
class ExpectedForm:
    """A form that a view expects: its syntax, the schema of its text fields, and where its files go."""

    form: Form
    schema: colander.Schema
    sink: Sink = store_upload

    @classmethod
    def of(cls, *files: str, schema: colander.Schema, sink: Sink = store_upload) -> ExpectedForm:
        """The form of one file, in a field of one of these names, and of the text fields of a schema."""
        return cls(Form(frozenset(files), frozenset(node.name for node in schema.children)), schema, sink)


@dataclass(frozen=True)
class Expects:
    """What a view expects of the request: schemas of its parts, and the form where the body is one."""

    body: colander.Schema | None = None
    query: colander.Schema | None = None
    headers: colander.Schema | None = None
    form: ExpectedForm | None = None
    raw: bool = False
    """Whether the body is bytes of any type, which the view reads."""


def check(request: Request, schema: Expects | None = None, **_other: object) -> None:
    """Put the valid parts of the request into `request.validated`; raise `InvalidRequest` with every error.

    A form is read last, and only into a request that is valid so far: it may be large.
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
    """The JSON of a request's body; raises 400, 413 and 415."""
    if request.content_type != "application/json":
        raise HTTPUnsupportedMediaType("Unsupported media type: expected application/json.")
    body = read_whole(request.body_file_raw, request.content_length, request.settings.body_limit)
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as error:
        raise HTTPBadRequest(f"The body is not JSON: {error}") from None


def query_of(request: Request, _schema: colander.Schema) -> dict[str, str]:
    """The parameters of the query string; raises `Invalid` for those that are repeated."""
    parameters = request.GET
    found = dict(parameters)
    if len(found) != len(parameters):
        repeated = sorted({name for name in parameters if len(parameters.getall(name)) > 1})
        raise Invalid(FieldError(name, "Given more than once.") for name in repeated)
    return found


def headers_of(request: Request, schema: colander.Schema) -> dict[str, str]:
    """The headers that a schema names, as far as the request has them."""
    return {node.name: request.headers[node.name] for node in schema.children if node.name in request.headers}


def read_form_of(request: Request, expected: ExpectedForm) -> None:
    """Read the request's form, its files into the form's sink; raises 400, 413, 415 and `InvalidRequest`.

    The request holds no transaction meanwhile: its body may be slow to come.
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
    """Every error of a colander exception, with its dotted name; lone surrogates in it are escaped."""
    for name, description in invalid.asdict(separator=" ").items():
        yield FieldError(name.removeprefix(".").encode("utf-8", "backslashreplace").decode(), description)


class PlacedService(cornice.Service):
    """A cornice service at one URL template of a tree."""

    default_validators = [check]

    def __init__(self, tree: Tree, context: type[Node], path: str) -> None:
        self.tree, self.context = tree, context
        place = {"path": path, "traverse": path.removeprefix(tree.prefix), "factory": tree, "context": context}
        super().__init__(f"{tree.name}:{path}", renderer="json", **place)


class Service:
    """What can be done with the nodes of a class. It is registered at every place that a tree has for the class."""

    def __init__(self, context: type[Node]) -> None:
        self.context = context
        self.views: list[tuple[str, Callable[[Request], object], dict[str, object]]] = []
        venusian.attach(self, self._register, category="pyramid")

    def view(
        self, method: str, *, permission: str | None = None, schema: Expects | None = None
    ) -> Callable[[View[Context, Answer]], View[Context, Answer]]:
        """Register a view that is called as Pyramid calls its own: context, then request."""

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
        """Add the views to the application, in every tree of the registry that has the class."""
        for tree in scanner.config.registry.trees:
            for path in tree.paths(self.context):
                placed = PlacedService(tree, self.context, path)
                for method, view, arguments in self.views:
                    placed.add_view(method, view, **arguments)
                scanner.config.add_cornice_service(placed)
