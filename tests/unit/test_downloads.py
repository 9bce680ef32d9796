"""Downloads: whole blobs, ranges, conditional requests, and the headers that restrict browsers."""

import base64
import hashlib
import json
import os
import random
import tracemalloc
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.registry import Registry
from pyramid.request import Request

from mlapi.http.downloads import RangeNotSatisfiable, content_disposition, download, span
from mlapi.http.problems import respond
from mlapi.storage import CHUNK, MissingBlob
from mlapi.storage.local import LocalStore

CONTENT = random.Random(1).randbytes(CHUNK + 1000)
SIZE = len(CONTENT)
YEAR_10000 = "Fri, 31 Dec 10000 23:59:59 GMT"
MIB = 2**20


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "blobs")


@pytest.fixture
def blob(store):
    return store.put([CONTENT])


@pytest.fixture
def get(store, blob):
    """Request the blob like a WSGI server."""

    def get(method="GET", name="a.bin", **headers):
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        request = Request.blank("/", method=method, headers=named)
        return request.get_response(download(store, blob.sha256, blob.size, name, request))

    return get


def open_files(store):
    links = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return [each for each in links if os.path.realpath(each).startswith(str(store.root))]


class TestWhole:
    def test_has_the_content_and_its_headers(self, get, blob):
        response = get()
        assert response.status_code == 200
        assert response.body == CONTENT
        digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
        assert dict(response.headers) == {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(SIZE),
            "Content-Disposition": "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin",
            "ETag": f'"{blob.sha256}"',
            "Repr-Digest": f"sha-256=:{digest}:",
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def test_head_has_the_same_headers_and_no_body(self, get, store):
        head = get("HEAD")
        assert dict(head.headers) == dict(get().headers)
        assert head.status_code == 200
        assert head.body == b""
        assert open_files(store) == []

    def test_an_empty_blob_has_no_bytes(self, store):
        blob = store.put([])
        request = Request.blank("/")
        response = request.get_response(download(store, blob.sha256, 0, "empty", request))
        assert (response.status_code, response.content_length, response.body) == (200, 0, b"")

    def test_a_missing_blob_fails_before_the_response_begins(self, store):
        with pytest.raises(MissingBlob):
            download(store, "0" * 64, 5, "a", Request.blank("/"))

    def test_is_never_held_in_memory(self, store):
        blob = store.put(bytes(CHUNK) for _ in range(128))
        request = Request.blank("/")
        tracemalloc.start()
        try:
            response = download(store, blob.sha256, blob.size, "a", request)
            app_iter = response(request.environ, lambda status, headers: None)
            assert sum(map(len, app_iter)) == 32 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * MIB

    @pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-"}])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("taken", [0, 1])
    def test_a_closed_connection_closes_the_file(self, store, blob, headers, method, taken):
        request = Request.blank("/", method=method, headers=headers)
        response = download(store, blob.sha256, blob.size, "a", request)
        app_iter = response(request.environ, lambda status, headers: None)
        for _ in range(taken):
            next(iter(app_iter), None)
        assert len(open_files(store)) == 1
        app_iter.close()
        assert open_files(store) == []


class TestRange:
    @pytest.mark.parametrize(
        ("header", "start", "stop"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=100-199", 100, 200),
            ("BYTES = 100 - 199", 100, 200),
            ("bytes=5-", 5, SIZE),
            ("bytes=-10", SIZE - 10, SIZE),
            (f"bytes={CHUNK - 1}-{CHUNK + 1}", CHUNK - 1, CHUNK + 2),
            (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
            ("bytes=0-99999999999999999999999999", 0, SIZE),
            ("bytes=-99999999999999999999999999", 0, SIZE),
        ],
    )
    def test_returns_a_part(self, get, header, start, stop):
        response = get(Range=header)
        assert response.status_code == 206
        assert response.body == CONTENT[start:stop]
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert response.content_length == stop - start
        whole = get().headers
        for name in set(whole) - {"Content-Length"}:
            assert response.headers[name] == whole[name]

    @pytest.mark.parametrize(
        "header", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=9" + "0" * 30 + "-"]
    )
    def test_beyond_the_end_is_an_error_with_the_size(self, get, store, header):
        with pytest.raises(RangeNotSatisfiable) as caught:
            get(Range=header)
        request = Request.blank("/")
        request.registry = Registry()
        request.registry.trees = ()
        response = respond(caught.value, request)
        assert response.status_code == 416
        assert response.headers["Content-Range"] == f"bytes */{SIZE}"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "ETag" not in response.headers
        assert json.loads(response.body)["status"] == 416
        assert open_files(store) == []

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=0-1,5-6",
            "bytes=0-1,",
            "items=0-1",
            "bytes=0-1x",
            "bytes=--1",
            "bytes=1" + "0" * 5000 + "-",
            "bytes=²-",
        ],
    )
    def test_a_header_that_is_not_a_single_range_is_ignored(self, get, header):
        response = get(Range=header)
        assert (response.status_code, response.body) == (200, CONTENT)
        assert "Content-Range" not in response.headers

    def test_no_range_of_an_empty_blob_is_satisfiable(self):
        assert not span("bytes=0-", 0)
        assert span("bytes=0-", 0) is not None

    def test_head_ignores_a_range(self, get):
        response = get("HEAD", Range="bytes=0-1")
        assert (response.status_code, response.content_length) == (200, SIZE)

    def test_if_range_returns_a_part_of_the_same_content_only(self, get, blob):
        assert get(Range="bytes=0-1", If_Range=f'"{blob.sha256}"').status_code == 206
        for other in (
            '"other"',
            f'W/"{blob.sha256}"',
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "nonsense GMT",
            YEAR_10000,
            "*",
            "",
        ):
            response = get(Range="bytes=0-1", If_Range=other)
            assert (response.status_code, response.body) == (200, CONTENT)

    @given(st.text(st.characters(max_codepoint=255), max_size=20).map("bytes={}".format), st.integers(0, 50))
    def test_every_header_results_in_a_span_within_the_blob(self, header, size):
        part = span(header, size)
        if part:
            assert 0 <= part.start < part.stop <= size


class TestNotModified:
    @pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_cached_content_is_not_sent_again(self, get, store, blob, form, method):
        response = get(method, If_None_Match=form.format(blob.sha256), Range="bytes=999999999-")
        assert (response.status_code, response.body) == (304, b"")
        assert response.headers["ETag"] == f'"{blob.sha256}"'
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert {"Content-Length", "Content-Type", "Content-Range"}.isdisjoint(response.headers)
        assert open_files(store) == []

    @pytest.mark.parametrize("header", ['"other"', "nonsense", '"'])
    def test_other_content_is_sent(self, get, header):
        assert get(If_None_Match=header).body == CONTENT


NAMES = ["a.txt", 'quo"te', "back\\slash", "semi;colon", "per%41cent", "a b", "€.txt", "é", "\u202etxt.exe"]
NAMES += ["x" * 240, "€" * 80, "cr\r\nSet-Cookie: a=b", "nul\0", "../up", "'single'", "👍", "\u2028", "a=b,c"]


class TestDisposition:
    def check(self, name):
        header = content_disposition(name)
        assert header.isascii()
        assert header.isprintable()
        start, _, encoded = header.partition("; filename*=UTF-8''")
        assert unquote_to_bytes(encoded).decode() == name
        assert start.startswith('attachment; filename="')
        fallback = start.removeprefix('attachment; filename="').removesuffix('"')
        assert set('"\\%/').isdisjoint(fallback)
        assert len(fallback) == len(name)
        assert not set(encoded) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`|~%")

    @pytest.mark.parametrize("name", NAMES)
    def test_has_every_name_in_two_forms(self, name):
        self.check(name)

    @given(st.text())
    def test_supports_any_text(self, name):
        self.check(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_is_a_valid_header_for_the_server(self, get, name):
        assert get(name=name).headers["Content-Disposition"] == content_disposition(name)

    def test_equals_the_example_of_rfc_8187(self):
        assert content_disposition("€ rates.txt") == (
            "attachment; filename=\"_ rates.txt\"; filename*=UTF-8''%E2%82%AC%20rates.txt"
        )

    def test_lone_surrogates_are_replaced(self):
        assert content_disposition("a\ud800") == "attachment; filename=\"a_\"; filename*=UTF-8''a%3F"
