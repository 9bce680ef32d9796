"""Files over HTTP: uploads, downloads, changes and deletion."""

import hashlib
import json
import os
import uuid
from urllib.parse import quote, urlsplit

import pytest

from mlapi.http.downloads import content_disposition
from mlapi.storage import CHUNK
from tests.support import Client, World, another_app, is_problem, little_room, multipart

FILES = "users/ada/files"


@pytest.fixture
def file(ada):
    """A file of ada."""
    return ada.upload("a.txt", b"0123456789", status=201).json


def test_a_form_creates_a_file(ada, file):
    fields = {"tags": '{"label": 3, "of": ["a", null]}', "parent": file["url"]}
    answer = ada.form(FILES, fields, "file", "b.txt", b"bytes", status=201)
    made = answer.json
    assert answer.headers["Location"] == made["url"]
    assert made | {"created": 0, "id": 0, "url": 0, "content": 0} == {
        "id": 0,
        "url": 0,
        "content": 0,
        "created": 0,
        "name": "b.txt",
        "kind": "INPUT",
        "size": 5,
        "sha256": hashlib.sha256(b"bytes").hexdigest(),
        "tags": {"label": 3, "of": ["a", None]},
        "parent": file["url"],
        "job": None,
    }
    assert ada("GET", made["url"]).json == made


def test_the_file_field_can_be_named_blob_as_in_mlsploit(ada):
    assert ada.form(FILES, {}, "blob", "b.txt", b"bytes", status=201).json["size"] == 5


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * 2**20])
def test_a_download_equals_the_upload(size, ada):
    content = os.urandom(size)
    for made in (ada.upload("a", content, status=201), ada.form(FILES, {}, "file", "a", content, status=201)):
        assert (made.json["size"], made.json["sha256"]) == (size, hashlib.sha256(content).hexdigest())
        assert ada("GET", made.json["content"], status=200).body == content


def test_a_raw_body_is_accepted_with_any_content_type(ada):
    for kind in ("application/json", "text/html", "multipart/form-data", "application/x-www-form-urlencoded"):
        made = ada.upload("a", b"a=b", headers={"Content-Type": kind}, status=201).json
        answer = ada("GET", made["content"])
        assert (answer.content_type, answer.body) == ("application/octet-stream", b"a=b")


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.js", "a.pdf", "a.json"])
def test_a_download_is_never_displayed_by_a_browser(name, ada):
    made = ada.upload(name, b"<script>alert(1)</script>", status=201).json
    headers = ada("GET", made["content"], status=200).headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"].startswith("attachment;")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_head_has_the_headers_of_the_get_and_no_body(ada, file):
    got, head = (ada(method, file["content"], status=200) for method in ("GET", "HEAD"))
    assert head.body == b""
    assert dict(head.headers) == dict(got.headers)
    assert head.headers["Content-Length"] == "10"


@pytest.mark.parametrize(
    ("asked", "body", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=8-", b"89", "bytes 8-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=5-999", b"56789", "bytes 5-9/10"),
        ("bytes=-999", b"0123456789", "bytes 0-9/10"),
    ],
)
def test_a_range_returns_its_bytes(asked, body, content_range, ada, file):
    answer = ada("GET", file["content"], headers={"Range": asked}, status=206)
    assert (answer.body, answer.headers["Content-Range"]) == (body, content_range)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0", f"bytes={'9' * 50}-"])
def test_a_range_beyond_the_end_is_a_problem(asked, ada, file):
    answer = ada("GET", file["content"], headers={"Range": asked})
    is_problem(answer, 416)
    assert answer.headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize("asked", ["", "bytes", "bytes=", "bytes=-", "bytes=3-2", "bytes=0-1,3-4", "lines=1-2", "é"])
def test_an_invalid_range_is_ignored(asked, ada, file):
    assert ada("GET", file["content"], headers={"Range": asked}, status=200).body == b"0123456789"


def test_cached_content_is_not_sent_again(ada, file):
    etag = ada("GET", file["content"]).headers["ETag"]
    assert etag == f'"{file["sha256"]}"'
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        assert ada("GET", file["content"], headers={"If-None-Match": known}, status=304).body == b""
    ada("GET", file["content"], headers={"If-None-Match": '"other"'}, status=200)


NAMES = [
    *(
        "a b.txt",
        "é.txt",
        "e\u0301.txt",
        "日本語.txt",
        "👩\u200d🔬",
        ".hidden",
        "...",
        "a.tar.gz",
        "-rf",
        "~root",
    ),
    *(
        "CON",
        "a;b",
        'a"b',
        "a'b",
        "a%2fb",
        "%00",
        "a&b=c",
        "<script>",
        "$(id)",
        "`id`",
        "a:b",
        "*",
        "x" * 240,
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_stored_unchanged(name, ada):
    made = ada.upload(quote(name, safe=""), b"", status=201).json
    assert ada("GET", made["url"]).json["name"] == name
    header = ada("GET", made["content"]).headers["Content-Disposition"]
    assert header == content_disposition(name)
    assert header.isascii()
    assert header.endswith(f"filename*=UTF-8''{quote(name, safe='!#$&+-.^_`|~')}")
    if '"' not in name:  # A quote must be escaped in the header of a form.
        assert ada.form(FILES, {}, "file", name, b"", status=201).json["name"] == name


REFUSED = [
    *("", ".", "..", "/", "a/b", "/etc/passwd", "../a", "a/..", "..\\a", "a\\b", "C:\\a", "\\\\host\\a", "a\0b"),
    *("a\nb", "a\r\nSet-Cookie: a=b", "a\tb", "\x7f", "a\x85b", "a\u2028b", "a\u202eb", "x" * 241, "é" * 121),
]


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsafe_name_is_rejected(name, ada):
    problem = is_problem(ada.upload(quote(name, safe=""), b"bytes"), 422, "name")
    assert problem["errors"][0]["location"] == "querystring"
    if not set(name) & set("\r\n\\\0"):  # Such a header is malformed.
        is_problem(ada.form(FILES, {}, "file", name, b"bytes"), 422, "file")
    assert ada("GET", FILES).json["items"] == []


def test_a_raw_body_without_a_name_is_rejected(ada):
    is_problem(ada("PUT", FILES, body=b"bytes"), 422, "name")


def kept(wsgi):
    """The blobs and the temporary files of the store."""
    store = wsgi.registry.store
    return sorted(each.sha256 for each in store.blobs()), list((store.root / "tmp").iterdir())


def test_a_name_is_validated_before_the_body_is_read(ada, wsgi):
    before = kept(wsgi)
    is_problem(ada.upload("a%2fb", os.urandom(16)), 422, "name")
    assert kept(wsgi) == before


def part(name, content=b"x", filename=None, more=""):
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    return f"--B\r\n{head}{more}\r\n\r\n".encode() + content + b"\r\n"


FILE, END = part("file", b"bytes", "a.txt"), b"--B--\r\n"
FORM = "multipart/form-data; boundary=B"

BROKEN = {
    "no boundary": (FILE + END, "multipart/form-data"),
    "an empty boundary": (FILE + END, "multipart/form-data; boundary="),
    "another boundary": (FILE + END, "multipart/form-data; boundary=C"),
    "a boundary of 71 characters": (FILE + END, f"multipart/form-data; boundary={'B' * 71}"),
    "a boundary of 5,000 characters": (FILE + END, f"multipart/form-data; boundary={'B' * 5000}"),
    "a boundary that is not ASCII": (FILE + END, "multipart/form-data; boundary=é"),
    "nothing": (b"", FORM),
    "JSON": (b'{"file": "x"}', FORM),
    "no end": (FILE, FORM),
    "an end that is cut": (FILE + END[:-4], FORM),
    "cut in a header": (FILE[:20], FORM),
    "cut in the content": (FILE[:-4], FORM),
    "a part without a name": (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, FORM),
    "a part without headers": (b"--B\r\n\r\nx\r\n" + END, FORM),
    "a header of 64 KiB": (part("file", b"", "a.txt", f"\r\nX-A: {'x' * 2**16}") + END, FORM),
    "a header without a colon": (part("file", b"", "a.txt", "\r\nnonsense") + END, FORM),
    "a header that is not UTF-8": (FILE.replace(b"a.txt", b"\xff.txt") + END, FORM),
    "1,000 headers": (part("file", b"", "a.txt", "\r\nX-A: 1" * 1000) + END, FORM),
    "20,000 parts": (part("tags") * 20_000 + END, FORM),
    "text that is not UTF-8": (part("tags", b"\xff") + FILE + END, FORM),
    "text in another charset": (
        part("tags", b"{}", None, "\r\nContent-Type: text/plain; charset=utf-16") + FILE + END,
        FORM,
    ),
}


@pytest.mark.parametrize(("body", "content_type"), BROKEN.values(), ids=BROKEN)
def test_a_broken_form_is_rejected_and_leaves_no_file(body, content_type, ada):
    answer = ada("POST", FILES, body=body, headers={"Content-Type": content_type})
    assert answer.status_int in (400, 422)
    is_problem(answer, answer.status_int)
    assert ada("GET", FILES).json["items"] == []


@pytest.mark.parametrize("content_type", ["", "application/json", "application/octet-stream", "multipart/mixed"])
def test_another_media_type_than_a_form_is_rejected(content_type, ada):
    is_problem(ada("POST", FILES, body=FILE + END, headers={"Content-Type": content_type}), 415)


WRONG = {
    "no file": (part("tags", b"{}"), "blob"),
    "two files": (FILE + FILE, "file"),
    "two names of the file": (FILE + part("blob", b"", "b.txt"), "blob"),
    "an unknown field": (FILE + part("color"), "color"),
    "an unknown file": (part("image", b"", "a.png") + FILE, "image"),
    "a file without a filename": (part("file", b"bytes"), "file"),
    "tags twice": (part("tags", b"{}") * 2 + FILE, "tags"),
    "tags that are not JSON": (part("tags", b"{") + FILE, "tags"),
    "tags of NaN": (part("tags", b'{"a": NaN}') + FILE, "tags"),
    "tags with a key twice": (part("tags", b'{"a": 1, "a": 2}') + FILE, "tags"),
    "empty tags": (part("tags", b"") + FILE, "tags"),
    "a list of tags": (part("tags", b'["a"]') + FILE, "tags"),
    "null for tags": (part("tags", b"null") + FILE, "tags"),
    "tags of NUL": (part("tags", b'{"a": "\\u0000"}') + FILE, "tags"),
    "tags of half a character": (part("tags", b'{"\\udfff": 1}') + FILE, "tags"),
    "tags beyond 64 bits": (part("tags", b'{"a": 9223372036854775808}') + FILE, "tags"),
    "deep tags": (part("tags", b'{"a": [[[[1]]]]}') + FILE, "tags"),
    "tags of 100,000 levels": (part("tags", b"[" * 60_000) + FILE, "tags"),
    "101 tags": (part("tags", json.dumps(dict.fromkeys(map(str, range(101)))).encode()) + FILE, "tags"),
    "tags of 100 KB": (part("tags", b'{"a": "%s"}' % (b"x" * 100_000)) + FILE, "tags"),
    "no URL of a parent": (FILE + part("parent", b"1"), "parent"),
    "NUL in the parent": (FILE + part("parent", b"\0"), "parent"),
    "a parent that is not there": (FILE + part("parent", b"/api/v1/users/ada/files/99"), "parent"),
}


@pytest.mark.parametrize(("parts", "field"), WRONG.values(), ids=WRONG)
def test_an_error_of_a_form_names_its_field_and_leaves_no_file(parts, field, ada):
    is_problem(ada("POST", FILES, body=parts + END, headers={"Content-Type": FORM}), 422, field)
    assert ada("GET", FILES).json["items"] == []


def test_all_errors_of_the_text_fields_are_reported_together(ada):
    is_problem(ada.form(FILES, {"tags": "[]", "parent": "x"}, "file", "a", b""), 422, "tags", "parent")


def test_only_tags_can_be_changed(ada, file):
    changed = ada("PATCH", file["url"], {"tags": {"a": 1}}, status=200).json
    assert changed == file | {"tags": {"a": 1}}
    for other in ("name", "sha256", "kind", "owner", "parent"):
        is_problem(ada("PATCH", file["url"], {"tags": {}, other: "x"}), 422, other)
    is_problem(ada("PATCH", file["url"], {}), 422, "tags")
    assert ada("GET", file["url"]).json == changed


def test_a_deleted_file_is_not_found_and_its_children_have_no_parent(ada, file):
    child = ada.form(FILES, {"parent": file["url"]}, "file", "b", b"", status=201).json
    assert ada("DELETE", file["url"], status=200).json == {"deleted": {"files": 1}}
    for url in (file["url"], file["content"]):
        is_problem(ada("GET", url), 404)
    is_problem(ada("DELETE", file["url"]), 404)
    assert ada("GET", child["url"]).json["parent"] is None


def test_another_file_with_the_same_content_is_not_deleted(ada, bob, file):
    same = bob.upload("b.txt", b"0123456789", status=201).json
    ada("DELETE", file["url"], status=200)
    assert bob("GET", same["content"]).body == b"0123456789"


def paths(urls):
    return sorted(urlsplit(url).path for url in urls)


def test_a_file_that_runs_or_jobs_refer_to_is_not_deleted(root, helloworld, wsgi):
    world = World(root, helloworld, wsgi)
    attempt, keys = "/api/v1/attempts/{attempt}", world.keys
    run = "/api/v1/users/root/pipelines/{pipeline}/runs/{run}".format(**keys)
    job = f"{run}/jobs/{keys['job']}"
    sha256 = world.ask("POST", f"{attempt}/outputs", body=b"Hello", status=201).json["sha256"]
    output = {"name": "o.txt", "sha256": sha256, "tags": {}, "origin": "created"}
    world.ask("POST", f"{attempt}/report", json={"status": "FINISHED", "outputs": [output]}, status=200)
    made = root("GET", job).json["outputs"][0]
    used = "/api/v1/users/root/files/{file}".format(**keys)
    assert paths(is_problem(root("DELETE", used), 409)["held_by"]) == [run, job]
    assert paths(is_problem(root("DELETE", made), 409)["held_by"]) == [job]
    for url in (used, made):
        root("GET", f"{url}/content", status=200)
    root("DELETE", run, status=200)
    root("DELETE", used, status=200)
    is_problem(root("GET", made), 404)


def test_a_file_over_the_limit_is_rejected_and_leaves_nothing(ada, wsgi, tmp_path):
    with another_app(wsgi, tmp_path, upload_limit=1000) as app:
        client = Client(app, "ada", ada.headers["Authorization"][7:])
        over, most = os.urandom(1001), os.urandom(1000)
        is_problem(client.upload("a", over), 413)
        is_problem(client.form(FILES, {}, "file", "a", over), 413)
        assert client("GET", FILES).json["items"] == []
        assert kept(app.app) == ([], [])
        client.upload("a", most, status=201)
        client.form(FILES, {}, "file", "a", most, status=201)


@pytest.mark.parametrize("kind", ["disk", "file size"])
def test_a_full_disk_is_reported_and_leaves_nothing(kind, ada, wsgi, tmp_path):
    (media := tmp_path / "media").mkdir()
    with little_room(kind, media), another_app(wsgi, tmp_path, media_dir=media / "files") as app:
        client = Client(app, "ada", ada.headers["Authorization"][7:])
        made = client.upload("a", b"kept", status=201).json
        before = kept(app.app)
        large = bytes(2**24 + 1)
        is_problem(client.upload("b", large), 507)
        is_problem(client.form(FILES, {}, "file", "b", large), 507)
        assert [each["id"] for each in client("GET", FILES).json["items"]] == [made["id"]]
        assert kept(app.app) == before
        assert client("GET", made["content"]).body == b"kept"
        client.upload("c", bytes(2**20), status=201)


def test_every_valid_boundary_is_accepted(ada):
    body, _ = multipart({}, "file", "a", b"bytes")
    boundary = body[2:34].decode()
    odd = f"{uuid.uuid4().hex[:10]} '()+_,-./:=?x"
    answer = ada(
        "POST",
        FILES,
        body=body.replace(boundary.encode(), odd.encode()),
        headers={"Content-Type": f'multipart/form-data; charset=utf-8; boundary="{odd}"'},
        status=201,
    )
    assert answer.json["size"] == 5
