"""Forms: files and text fields, as multipart/form-data or, without files, as application/x-www-form-urlencoded.

Files are read as a stream and never held in memory.
"""

import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, PushMultipartParser, parse_options_header

from mlapi.errors import FieldError, FieldErrors, Invalid, TooLarge
from mlapi.file_names import plain_name
from mlapi.http.bodies import Readable
from mlapi.storage import CHUNK
from mlapi.values import storable

PARTS = 20
"""Maximum number of parts of a form with one file; a form of more files may have as many parts more."""

TEXT = 64 * 1024
"""Maximum size of a text field in bytes."""

BODY = 1024 * 1024
"""Maximum size of an urlencoded form in bytes."""

FIELD_NAME = 4096
"""Maximum size of the name of an urlencoded field in bytes; in a multipart form the limit of headers applies."""


MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""A boundary according to RFC 2046."""


MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
"""A percent sign that does not introduce an encoded byte."""


class BadForm(Exception):
    """A form with broken syntax."""


@dataclass(frozen=True)
class Form:
    """A form: the names of its file fields and text fields, the number of files, and the rule for unknown fields.

    Files may come under any of the names in `files`, together at least `at_least` and at most `at_most`. Unknown
    fields are refused, or kept as text fields; a file in an unknown field is always refused.
    """

    files: frozenset[str]
    text_fields: Collection[str] = frozenset()
    at_least: int = 1
    at_most: int = 1
    unknown: Literal["refuse", "keep"] = "refuse"

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types of the form: urlencoded only if files are optional."""
        return (MULTIPART,) if self.at_least else (MULTIPART, URLENCODED)

    @property
    def parts(self) -> int:
        """Maximum number of parts."""
        return PARTS - 1 + self.at_most


Content = TypeVar("Content")


class FormFile(NamedTuple, Generic[Content]):
    """A file of a form: the name of its field, its file name, and what its bytes were stored as."""

    field: str
    name: str
    content: Content


@dataclass(frozen=True, slots=True)
class FormData(Generic[Content]):
    """The content of a form: its text fields by name, its files in their order, and the errors of both."""

    fields: dict[str, str]
    files: list[FormFile[Content]]
    errors: list[FieldError] = field(default_factory=list)


class Part(NamedTuple):
    """A part of a form, with its content still to be read."""

    name: str
    filename: str | None
    charset: str
    content: Iterator[bytes]


def read_form(
    form: Form,
    body_file: Readable,
    content_type: str,
    content_length: int | None,
    put: Callable[[Iterable[bytes]], Content],
) -> FormData[Content]:
    """Read a form whose files and text fields may come in any order; `put` stores a file from its chunks.

    The errors of the form are those of fields that are unknown, missing, duplicate or not valid. After the first error
    no file is stored; blobs that were stored before are left to the sweep. Raises `BadForm` for broken syntax or too
    many parts or headers, and `TooLarge` for an urlencoded form beyond its limit.
    """
    fields, files, errors, count = dict[str, str](), list[FormFile[Content]](), FieldErrors(), 0
    with closing(_parts(form, body_file, content_type, content_length)) as parts:
        for part in parts:
            with errors.collect():
                if part.name in form.files:
                    filename = _filename(part, form, count)
                    count += 1
                    if not errors:
                        files.append(FormFile(part.name, filename, put(part.content)))
                else:
                    _check_text_field(part, form, fields)
                    fields[part.name] = _text(part)
    if count < form.at_least and form.files.isdisjoint(error.name for error in errors):
        missing = "A file is required." if form.at_least == 1 else f"At least {form.at_least} files are required."
        errors.add(min(form.files), missing)
    return FormData(fields, files, list(errors))


def _parts(form: Form, body_file: Readable, content_type: str, content_length: int | None) -> Generator[Part]:
    """Return the parts of a form of either media type."""
    kind, options = parse_options_header(content_type) if len(content_type) <= 1024 else ("", {})
    if kind not in form.media_types:
        raise BadForm(f"The content type must be {' or '.join(form.media_types)}.")
    if kind == URLENCODED:
        return _urlencoded(form, _body(body_file, content_length), options.get("charset", ""))
    return _multipart(_events(form, body_file, _boundary(options), content_length))


def _multipart(events: Generator[Any]) -> Generator[Part]:
    """Yield the parts of a multipart form; skips the content that was not read."""
    with closing(events):
        for segment in events:
            # The parser's events of a part are its headers, its chunks, and None at its end.
            content: Iterator[bytes] = iter(partial(next, events), None)
            yield Part(segment.name, segment.filename, segment.charset or "utf-8", content)
            for _ in content:
                pass


def _events(form: Form, body_file: Readable, boundary: str, content_length: int | None) -> Generator[Any]:
    """Yield the parser's events while the body is read."""
    length = -1 if content_length is None else content_length
    parser = PushMultipartParser(boundary, length, max_segment_count=form.parts)
    try:
        yield from parser.parse_blocking(body_file.read, CHUNK)
    except MultipartError as error:
        raise BadForm(f"The form is broken: {error.args[0]}.") from error


def _boundary(options: Mapping[str, str]) -> str:
    """Return the boundary parameter of a content type."""
    boundary = options.get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise BadForm("The content type must have a boundary of 1 to 70 characters.")
    return boundary


def _urlencoded(form: Form, body: bytes, charset: str) -> Generator[Part]:
    """Yield the fields of an urlencoded form as parts; empty pairs are skipped, as the URL Standard requires."""
    pairs = [pair for pair in body.split(b"&") if pair]
    if len(pairs) > form.parts:
        raise BadForm("The form is broken: Maximum field count exceeded.")
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        yield Part(_field_name(name), None, charset or "utf-8", iter([_unquote(value)]))


def _body(body_file: Readable, content_length: int | None) -> bytes:
    """Read an urlencoded form whole, to its length or else to its end."""
    if (content_length or 0) > BODY:
        raise TooLarge(f"The form must have at most {BODY} bytes.")
    body, left = bytearray(), BODY + 1 if content_length is None else content_length
    while chunk := body_file.read(min(left, CHUNK)):
        body += chunk
        left -= len(chunk)
    if content_length is None and not left:
        raise TooLarge(f"The form must have at most {BODY} bytes.")
    if content_length is not None and left:
        raise BadForm("The form is broken: Unexpected end of the body.")
    return bytes(body)


def _field_name(encoded: bytes) -> str:
    """Decode the name of an urlencoded field."""
    name = _unquote(encoded)
    if len(name) > FIELD_NAME:
        raise BadForm(f"The form is broken: A field name must have at most {FIELD_NAME} bytes.")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise BadForm("A field name must be in UTF-8.") from None


def _unquote(encoded: bytes) -> bytes:
    """Decode percent-encoding and plus signs."""
    if MALFORMED.search(encoded):
        raise BadForm("The form is broken: Invalid percent-encoding.")
    return unquote_to_bytes(encoded.replace(b"+", b" "))


def _filename(part: Part, form: Form, before: int) -> str:
    """Return the name of a file that comes after `before` others."""
    if before >= form.at_most:
        many = "Only one file can be sent at a time." if form.at_most == 1 else f"At most {form.at_most} files."
        raise Invalid.field(part.name, many)
    if part.filename is None:
        raise Invalid.field(part.name, "Must be a file, with a filename in UTF-8.")
    try:
        return plain_name(part.filename)
    except ValueError as error:
        raise Invalid.field(part.name, str(error)) from None


def _check_text_field(part: Part, form: Form, fields: Mapping[str, str]) -> None:
    """Refuse a text field that is unknown or duplicate."""
    known = part.name in form.text_fields
    if not known and (form.unknown == "refuse" or part.filename is not None):
        raise Invalid.field(part.name, "Unknown field.")
    if part.name in fields:
        raise Invalid.field(part.name, "Sent more than once.")
    if not storable(part.name):
        raise Invalid.field(part.name, "A field name must not contain NUL.")


def _text(part: Part) -> str:
    """Read the content of a text field."""
    if part.charset.lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise BadForm("A text field must be in UTF-8.")
    content = bytearray()
    for chunk in part.content:
        content += chunk
        if len(content) > TEXT:
            raise Invalid.field(part.name, f"Must have at most {TEXT} bytes.")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise BadForm("A text field must be in UTF-8.") from None
    if not storable(text):
        raise Invalid.field(part.name, "Must not contain NUL.")
    return text
