"""Responses with a blob: whole, a range of it, or none if the client has it already.

A browser must neither display nor execute the content: the media type is always application/octet-stream, the
disposition always `attachment`.
"""

import base64
import re
from collections.abc import Iterator
from urllib.parse import quote

from pyramid.request import Request
from pyramid.response import Response

from mlapi.storage import BlobStore

GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Accept-Ranges": "bytes",
}
"""Headers of every response, with or without a body."""

RANGE = re.compile(r"bytes *= *(\d*) *- *(\d*)", re.IGNORECASE)
"""A Range header with a single range."""


class RangeNotSatisfiable(Exception):
    """A range that has no byte of a blob of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"Range not satisfiable: there are {size} bytes.")


def download(store: BlobStore, sha256: str, size: int, name: str, request: Request) -> Response:
    """Respond to GET or HEAD with a blob: 200, 206 or 304; raises `RangeNotSatisfiable`.

    WebOb's conditional response is not used: it fails on `bytes=-` and on dates beyond the year 9999, refuses a suffix
    longer than the blob, and ignores all but the first of several ranges.
    """
    response = Response(headerlist=[*GUARDS.items(), *_validators(sha256)])
    if sha256 in request.if_none_match:
        response.status_code = 304
        del response.content_length
        return response
    ranged = request.method == "GET" and request.headers.get("If-Range", f'"{sha256}"') == f'"{sha256}"'
    part = span(request.headers.get("Range", ""), size) if ranged else None
    if part is not None and not part:
        raise RangeNotSatisfiable(size)
    response.content_type = "application/octet-stream"
    response.headers["Content-Disposition"] = content_disposition(name)
    response.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    if part is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    sent = range(size) if part is None else part
    response.app_iter = store.open(sha256, sent.start, sent.stop)
    response.content_length = len(sent)
    return response


def content_disposition(name: str) -> str:
    """Return the Content-Disposition header of a file: its name in ASCII for old clients, and in UTF-8.

    The ASCII name has no `%`, because some clients decode it.
    """
    fallback = re.sub(r'[^ -~]|["\\%/]', "_", name)
    encoded = quote(name.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}"


def span(header: str, size: int) -> range | None:
    """Return the range of a Range header for a blob of `size` bytes, which is empty if it cannot be satisfied.

    Returns None for a header to ignore: one that is malformed, has several ranges, or has more than 100 characters.
    """
    match = RANGE.fullmatch(header) if len(header) <= 100 else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _validators(sha256: str) -> Iterator[tuple[str, str]]:
    """Yield the headers for caches: the content never changes, but permissions do, so a cache must revalidate."""
    yield "ETag", f'"{sha256}"'
    yield "Cache-Control", "private, no-cache"
