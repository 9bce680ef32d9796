"""Forms: read as a stream, within limits; every error names what is wrong."""

import io
import random
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlapi.errors import Invalid, StorageFull, TooLarge
from mlapi.http.forms import PARTS, TEXT, BadUpload, Received, plain_name, receive
from mlapi.storage import CHUNK, Blob
from mlapi.storage.local import LocalStore

BOUNDARY = "----form"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
MIB = 2**20


def part(name, content=b"", filename=None, headers=b"") -> bytes:
    tail = "" if filename is None else f'; filename="{filename}"'
    head = f'Content-Disposition: form-data; name="{name}"{tail}\r\n'.encode()
    return f"--{BOUNDARY}\r\n".encode() + head + headers + b"\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Kept:
    """Takes a file's chunks as a store does."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def put(self, chunks) -> Blob:
        self.chunks = list(chunks)
        return Blob("0" * 64, len(self.content))

    @property
    def content(self) -> bytes:
        return b"".join(self.chunks)


def send(body: bytes, kept=None, content_type=TYPE, length: int | None = -1) -> Received:
    return receive(
        io.BytesIO(body),
        content_type,
        len(body) if length == -1 else length,
        (kept or Kept()).put,
        file_fields={"file", "blob"},
        text_fields={"tags", "kind"},
    )


def refused(body: bytes, **arguments) -> tuple[str, str]:
    """The field and the words of the error that a form is answered with."""
    with pytest.raises(Invalid) as caught:
        send(body, **arguments)
    (error,) = caught.value.errors
    return error.name, error.description


FILE = part("file", b"content", "a.txt")


class TestForm:
    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    @pytest.mark.parametrize("before", [0, 1, 2])
    def test_fields_come_before_and_after_the_file(self, before, length):
        fields = [part("tags", b'{"a": 1}'), part("kind", "Ŧext".encode())]
        kept = Kept()
        got = send(form(*fields[:before], FILE, *fields[before:]), kept, length=length)
        assert got == Received({"tags": '{"a": 1}', "kind": "Ŧext"}, "a.txt", Blob("0" * 64, 7))
        assert kept.content == b"content"

    @pytest.mark.parametrize("name", ["file", "blob"])
    def test_the_file_goes_by_any_name_of_the_set(self, name):
        assert send(form(part(name, b"x", "a"))).filename == "a"

    @pytest.mark.parametrize("size", [0, 1, CHUNK - 80, CHUNK, 2 * CHUNK + 7])
    def test_the_bytes_of_the_file_are_kept_as_they_are(self, size):
        body = random.Random(size).randbytes(size) + b"\r\n--" + BOUNDARY[:-1].encode() + b"\r"
        kept = Kept()
        send(form(part("file", body, "a")), kept)
        assert kept.content == body
        assert all(0 < len(chunk) <= CHUNK + 100 for chunk in kept.chunks)

    @pytest.mark.parametrize("pad", range(8))
    def test_the_end_may_fall_between_two_reads(self, pad):
        empty = len(form(part("file", b"", "a")))
        kept = Kept()
        send(form(part("file", bytes(CHUNK - empty + pad), "a")), kept)
        assert len(kept.content) == CHUNK - empty + pad

    def test_a_put_that_leaves_early_does_not_spoil_the_rest(self):
        class Lazy(Kept):
            def put(self, chunks):
                return Blob("0" * 64, len(next(iter(chunks))))

        body = form(part("file", bytes(3 * CHUNK), "a"), part("kind", b"x"))
        assert send(body, Lazy()).fields == {"kind": "x"}

    def test_a_name_in_unicode_is_kept_as_given(self):
        name = "e\u0301t\u00e9 \u20ac \u202f\u05d0.txt"
        assert send(form(part("file", b"", name))).filename == name

    def test_a_quoted_boundary_and_other_parameters_are_fine(self):
        assert send(form(FILE), content_type=f'Multipart/Form-Data; charset=utf-8; BOUNDARY="{BOUNDARY}"')

    def test_a_text_field_has_its_limit(self):
        assert len(send(form(part("kind", b"x" * TEXT), FILE)).fields["kind"]) == TEXT
        assert refused(form(part("kind", b"x" * (TEXT + 1)), FILE)) == (
            "kind",
            "Must have at most 65536 bytes.",
        )

    def test_memory_does_not_grow_with_the_file(self, tmp_path):
        store = LocalStore(tmp_path)
        head, tail = form(part("file", b"@", "a"), part("kind", b"x")).split(b"@")

        class Body:
            """A form that is made while it is read."""

            pieces = iter([head, *[bytes(CHUNK)] * 128, tail])

            def read(self, size):
                return next(self.pieces, b"")

        tracemalloc.start()
        try:
            got = receive(Body(), TYPE, None, store.put, file_fields={"file"}, text_fields={"kind"})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (got.blob.size, got.fields) == (32 * MIB, {"kind": "x"})
        assert peak < 4 * MIB


class TestFields:
    @pytest.mark.parametrize(
        ("parts", "field", "words"),
        [
            ([], "blob", "A file is required"),
            ([part("kind", b"x")], "blob", "A file is required"),
            ([FILE, FILE], "file", "Only one file"),
            ([FILE, part("blob", b"", "b")], "blob", "Only one file"),
            ([FILE, part("owner", b"1")], "owner", "Unknown field"),
            ([FILE, part("", b"1")], "", "Unknown field"),
            ([FILE, part("kind", b"1"), part("kind", b"1")], "kind", "more than once"),
            ([part("kind", b"a\0b"), FILE], "kind", "NUL"),
            ([part("file", b"text")], "file", "Must be a file"),
            ([part("file", b"", "")], "file", "from 1 to 240 bytes"),
            ([part("file", b"", "../x")], "file", "must not be a path"),
            ([part("file", b"", "a%0D%0Ab")], "file", "control characters"),
        ],
    )
    def test_what_is_wrong_with_a_field_names_it(self, parts, field, words):
        name, description = refused(form(*parts))
        assert name == field
        assert words in description

    @pytest.mark.parametrize("bad", [part("owner", b"1"), part("file", b"", "../x")])
    def test_nothing_is_stored_after_a_bad_field(self, bad):
        kept = Kept()
        refused(form(bad, part("file", b"content", "a.txt")), kept=kept)
        assert kept.content == b""

    @pytest.mark.parametrize(
        "bad",
        [part("kind", b"\xff"), part("kind", b"x", None, b"Content-Type: text/plain; charset=utf-7\r\n")],
    )
    def test_text_that_is_not_utf8_is_a_bad_upload_of_its_field(self, bad):
        with pytest.raises(BadUpload, match="UTF-8") as caught:
            send(form(bad, FILE))
        assert caught.value.field == "kind"


class TestBroken:
    whole = form(part("kind", b"x"), part("file", b"content", "a.txt"))

    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    @pytest.mark.parametrize("cut", range(len(whole) - 4))
    def test_a_form_without_its_end_is_refused_wherever_it_was_cut(self, cut, length):
        with pytest.raises(BadUpload) as caught:
            send(self.whole[:cut], length=length)
        assert caught.value.field is None

    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "multipart/mixed; boundary=a",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            'multipart/form-data; boundary=""',
            'multipart/form-data; boundary="a\n"',
            'multipart/form-data; boundary="a "',
            "multipart/form-data; boundary=é",
            "multipart/form-data; boundary=" + "a" * 71,
            "multipart/form-data; boundary=a" + "; a=b" * 300,
        ],
    )
    def test_a_content_type_without_a_good_boundary_is_refused(self, content_type):
        with pytest.raises(BadUpload, match="content type"):
            send(self.whole, content_type=content_type)

    def test_a_boundary_may_have_seventy_characters(self):
        long = "b" * 70
        body = self.whole.replace(BOUNDARY.encode(), long.encode())
        assert send(body, content_type=f"multipart/form-data; boundary={long}").filename == "a.txt"

    def test_the_number_of_parts_is_limited(self):
        class Names(set[str]):
            def __contains__(self, name: object) -> bool:
                return name != "file"

        def send_parts(number: int) -> Received:
            body = form(FILE, *[part(f"t{each}") for each in range(number - 1)])
            return receive(io.BytesIO(body), TYPE, len(body), Kept().put, file_fields={"file"}, text_fields=Names())

        assert len(send_parts(PARTS).fields) == PARTS - 1
        with pytest.raises(BadUpload, match="segment count"):
            send_parts(PARTS + 1)

    @pytest.mark.parametrize(
        "headers",
        [
            b"X-Long: " + b"x" * 5000 + b"\r\n",
            b"X-Many: 1\r\n" * 8,
            b"no colon\r\n",
            b"X-Bytes: \xff\r\n",
            b"Content-Length: 3\r\n",
            b"Content-Length: 99\r\n",
            b"Content-Length: " + b"9" * 4000 + b"\r\n",
        ],
    )
    def test_bad_headers_of_a_part_are_refused(self, headers):
        with pytest.raises(BadUpload, match="form is broken"):
            send(form(part("file", b"content", "a", headers)))

    @pytest.mark.parametrize(
        "disposition",
        [b"", b"Content-Disposition: attachment; name=file\r\n", b"Content-Type: text/plain\r\n"],
    )
    def test_a_part_must_be_form_data(self, disposition):
        body = f"--{BOUNDARY}\r\n".encode() + disposition + b"\r\nx\r\n" + form()
        with pytest.raises(BadUpload, match="Content-Disposition"):
            send(body)

    def test_more_than_the_content_length_is_not_read(self):
        body = io.BytesIO(self.whole + b"the next request")
        receive(body, TYPE, len(self.whole), Kept().put, file_fields={"file"}, text_fields={"kind"})
        assert body.read() == b"the next request"

    @pytest.mark.parametrize("cut", [10, 200, CHUNK + 100])
    def test_a_broken_file_leaves_nothing_in_the_store(self, tmp_path, cut):
        store = LocalStore(tmp_path)
        with pytest.raises(BadUpload):
            send(form(part("file", bytes(2 * CHUNK), "a"))[:cut], store)
        assert list(store.blobs()) == list((tmp_path / "tmp").iterdir()) == []

    @pytest.mark.parametrize("problem", [TooLarge("x"), StorageFull("x"), ConnectionError("x")])
    def test_what_the_store_refuses_comes_through(self, problem):
        class Refusing(Kept):
            def put(self, chunks):
                next(iter(chunks))
                raise problem

        with pytest.raises(type(problem)):
            send(self.whole, Refusing())

    @given(st.data())
    def test_garbage_is_always_refused_in_words(self, data):
        body = bytearray(self.whole)
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            got = send(bytes(body))
        except (BadUpload, Invalid):
            return
        assert plain_name(got.filename) == got.filename
        assert set(got.fields) <= {"tags", "kind"}


class TestPlainName:
    @pytest.mark.parametrize(
        "name",
        [
            "a",
            "a.txt",
            ".hidden",
            "...",
            " spaced ",
            'quo"te',
            "%2e%2e%2f",
            "~root",
            "C:",
            "-rf",
            "a;b",
            "€",
            "👍",
            "e\u0301",
            "\u00e9",
            "\u05d0\u05d1",
            "\uff0e\uff0e\uff0f",
            "x" * 240,
            "€" * 80,
        ],
    )
    def test_is_kept_as_given(self, name):
        assert plain_name(name) == name

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("", "from 1 to 240"),
            ("x" * 241, "from 1 to 240"),
            ("€" * 80 + "x", "from 1 to 240"),
            (".", "a path"),
            ("..", "a path"),
            ("../x", "a path"),
            ("/abs", "a path"),
            ("a/b", "a path"),
            ("..\\x", "a path"),
            ("C:\\x", "a path"),
            ("\\\\host\\x", "a path"),
            ("a\0", "NUL"),
            ("\ud800", "surrogates"),
            *[(f"a{char}b", "control characters") for char in "\x01\n\r\x1b\x1f\x7f\x80\x85\x9f\u2028\u2029"],
            *[(f"a{char}b", "direction") for char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"],
        ],
    )
    def test_what_could_do_harm_is_refused(self, name, words):
        with pytest.raises(ValueError, match=words):
            plain_name(name)

    @given(st.text(max_size=30))
    @example("\x00")
    def test_an_accepted_name_is_a_single_part_of_a_path(self, tmp_path_factory, name):
        try:
            plain_name(name)
        except ValueError:
            return
        assert name.encode().decode() == name
        folder = tmp_path_factory.getbasetemp()
        assert (folder / name).parent == folder
        assert (folder / name).name == name
