"""Bodies of requests. Files are read piece by piece: none that is sent is ever held in memory."""

import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from multipart import (
    MultipartError,
    PushMultipartParser,
    parse_options_header,
)

from mlapi.errors import Invalid
from mlapi.http.bodies import Readable
from mlapi.schemas.types import storable
from mlapi.storage import CHUNK, Blob

PARTS = 20
"""Parts that a form may have."""

TEXT = 64 * 1024
"""Bytes that a text field of a form may have."""

NAME = 240
"""Bytes of UTF-8 that a file name may have: it stays below the 255 of common file systems."""

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""What RFC 2046 takes for a boundary."""

UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line separators, and what turns the direction of writing."""


class BadUpload(Exception):
    """A form whose syntax is broken; `field` names the part where that is known."""

    def __init__(self, message: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Received:
    """A form as it came: its text fields, the name of its file, and the blob that the file became."""

    fields: dict[str, str]
    filename: str
    blob: Blob


def receive(
    body_file: Readable,
    content_type: str,
    content_length: int | None,
    put: Callable[[Iterable[bytes]], Blob],
    *,
    file_fields: Collection[str],
    text_fields: Collection[str],
) -> Received:
    """Read a form of exactly one file and any of the text fields, in whatever order they come.

    The chunks of the file are handed to `put` as they are read. Raises `BadUpload` where the form is broken
    or has too many parts or headers, and `Invalid` where a field is unknown, missing, sent twice or not as it
    should be. A blob that was stored before a later field was refused is left to the sweep.
    """
    file: tuple[str, Blob] | None = None
    fields: dict[str, str] = {}
    with closing(_events(body_file, content_type, content_length)) as events:
        for segment in events:
            # The events of a part are its head, its chunks, and None at its end.
            chunks: Iterator[bytes] = iter(partial(next, events), None)
            if segment.name in file_fields:
                filename = _filename(segment, file is not None)
                file = filename, put(chunks)
            elif segment.name in text_fields and segment.name not in fields:
                fields[segment.name] = _text(segment, chunks)
            else:
                problem = "Sent more than once." if segment.name in text_fields else "Unknown field."
                raise Invalid.field(segment.name, problem)
            _drain(chunks)
    if file is None:
        raise Invalid.field(min(file_fields), "A file is required.")
    return Received(fields, *file)


def plain_name(name: str) -> str:
    """Return a file name unchanged, or raise `ValueError` where it could harm a folder or a reader."""
    if not storable(name):
        raise ValueError("A file name must not contain NUL or lone surrogates.")
    if not 1 <= len(name.encode()) <= NAME:
        raise ValueError(f"A file name has from 1 to {NAME} bytes in UTF-8.")
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise ValueError("A file name must not be a path.")
    if UNSEEN.search(name):
        raise ValueError("A file name must not contain control characters, nor turn the direction.")
    return name


def _events(body_file: Readable, content_type: str, content_length: int | None) -> Generator[Any]:
    """Parse a body while it is read: yields head, chunks and None of each part in turn."""
    length = -1 if content_length is None else content_length
    parser = PushMultipartParser(_boundary(content_type), length, max_segment_count=PARTS)
    try:
        yield from parser.parse_blocking(body_file.read, CHUNK)
    except MultipartError as error:
        raise BadUpload(f"The form is broken: {error.args[0]}.") from error


def _boundary(content_type: str) -> str:
    """Return the boundary that the header Content-Type gives."""
    kind, options = parse_options_header(content_type) if len(content_type) <= 1024 else ("", {})
    if kind != "multipart/form-data":
        raise BadUpload("The content type must be multipart/form-data.")
    boundary: str = options.get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise BadUpload("The content type must give a boundary of 1 to 70 characters.")
    return boundary


def _filename(segment: Any, second: bool) -> str:
    """Return the name of a file that is about to come."""
    if second:
        raise Invalid.field(segment.name, "Only one file can be sent at a time.")
    if segment.filename is None:
        raise Invalid.field(segment.name, "Must be a file, with a filename in UTF-8.")
    try:
        return plain_name(segment.filename)
    except ValueError as error:
        raise Invalid.field(segment.name, str(error)) from None


def _text(segment: Any, chunks: Iterable[bytes]) -> str:
    """Collect a text field."""
    if (segment.charset or "utf-8").lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise BadUpload("A text field must be in UTF-8.", segment.name)
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > TEXT:
            raise Invalid.field(segment.name, f"Must have at most {TEXT} bytes.")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise BadUpload("A text field must be in UTF-8.", segment.name) from None
    if not storable(text):
        raise Invalid.field(segment.name, "Must not contain NUL.")
    return text


def _drain(chunks: Iterator[bytes]) -> None:
    """Pass over what is left of a part."""
    for _ in chunks:
        pass
