"""Forms: read as a stream, within limits; every error names what is wrong."""

import io
import random
import tracemalloc
from itertools import permutations
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlapi.errors import Invalid, StorageFull, TooLarge
from mlapi.file_names import plain_name
from mlapi.http.forms import BODY, FIELD_NAME, PARTS, TEXT, BadForm, Form, FormData, FormFile, read_form
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
    """A store that keeps files in memory."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def put(self, chunks) -> Blob:
        self.chunks = list(chunks)
        return Blob("0" * 64, len(self.content))

    @property
    def content(self) -> bytes:
        return b"".join(self.chunks)


ONE = Form(frozenset({"file", "blob"}), frozenset({"tags", "kind"}))


def send(body: bytes, kept=None, content_type=TYPE, length: int | None = -1, form: Form = ONE) -> FormData:
    length = len(body) if length == -1 else length
    data = read_form(form, io.BytesIO(body), content_type, length, (kept or Kept()).put)
    if data.errors:
        raise Invalid(data.errors)
    return data


def filename(data: FormData) -> str:
    """The name of the only file of a form."""
    (file,) = data.files
    return file.name


def refused(body: bytes, **arguments) -> tuple[str, str]:
    """The field and the description of the error of a form."""
    with pytest.raises(Invalid) as caught:
        send(body, **arguments)
    (error,) = caught.value.errors
    return error.name, error.description


FILE = part("file", b"content", "a.txt")


class TestForm:
    def test_all_errors_of_the_fields_are_found(self):
        parts = [part("other", b"1"), part("file", b"content", "../a"), part("tags", b"x" * (TEXT + 1)), part("tags")]
        kept = Kept()
        with pytest.raises(Invalid) as caught:
            send(form(*parts, part("kind", b"\0")), kept)
        assert [error.name for error in caught.value.errors] == ["other", "file", "tags", "kind"]
        assert kept.chunks == []

    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    @pytest.mark.parametrize("before", [0, 1, 2])
    def test_fields_can_be_before_and_after_the_file(self, before, length):
        fields = [part("tags", b'{"a": 1}'), part("kind", "Ŧext".encode())]
        kept = Kept()
        got = send(form(*fields[:before], FILE, *fields[before:]), kept, length=length)
        assert got == FormData({"tags": '{"a": 1}', "kind": "Ŧext"}, [FormFile("file", "a.txt", Blob("0" * 64, 7))])
        assert kept.content == b"content"

    @pytest.mark.parametrize("name", ["file", "blob"])
    def test_the_file_can_have_any_name_of_the_set(self, name):
        assert send(form(part(name, b"x", "a"))).files == [FormFile(name, "a", Blob("0" * 64, 1))]

    @pytest.mark.parametrize("size", [0, 1, CHUNK - 80, CHUNK, 2 * CHUNK + 7])
    def test_the_content_of_the_file_is_unchanged(self, size):
        body = random.Random(size).randbytes(size) + b"\r\n--" + BOUNDARY[:-1].encode() + b"\r"
        kept = Kept()
        send(form(part("file", body, "a")), kept)
        assert kept.content == body
        assert all(0 < len(chunk) <= CHUNK + 100 for chunk in kept.chunks)

    @pytest.mark.parametrize("pad", range(8))
    def test_the_end_can_be_between_two_reads(self, pad):
        empty = len(form(part("file", b"", "a")))
        kept = Kept()
        send(form(part("file", bytes(CHUNK - empty + pad), "a")), kept)
        assert len(kept.content) == CHUNK - empty + pad

    def test_a_file_that_is_not_read_to_its_end_does_not_affect_the_rest(self):
        class Lazy(Kept):
            def put(self, chunks):
                return Blob("0" * 64, len(next(iter(chunks))))

        body = form(part("file", bytes(3 * CHUNK), "a"), part("kind", b"x"))
        assert send(body, Lazy()).fields == {"kind": "x"}

    def test_a_name_in_unicode_is_unchanged(self):
        name = "e\u0301t\u00e9 \u20ac \u202f\u05d0.txt"
        assert filename(send(form(part("file", b"", name)))) == name

    def test_a_quoted_boundary_and_other_parameters_are_accepted(self):
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
            """A form that is generated while it is read."""

            pieces = iter([head, *[bytes(CHUNK)] * 128, tail])

            def read(self, size):
                return next(self.pieces, b"")

        tracemalloc.start()
        try:
            got = read_form(ONE, Body(), TYPE, None, store.put)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (got.files[0].content.size, got.fields) == (32 * MIB, {"kind": "x"})
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
    def test_an_error_names_its_field(self, parts, field, words):
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
    def test_text_that_is_not_utf8_breaks_the_form(self, bad):
        with pytest.raises(BadForm, match="A text field must be in UTF-8"):
            send(form(bad, FILE))


class TestBroken:
    whole = form(part("kind", b"x"), part("file", b"content", "a.txt"))

    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    @pytest.mark.parametrize("cut", range(len(whole) - 4))
    def test_a_truncated_form_is_rejected(self, cut, length):
        with pytest.raises(BadForm):
            send(self.whole[:cut], length=length)

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
    def test_an_invalid_boundary_is_rejected(self, content_type):
        with pytest.raises(BadForm, match="content type"):
            send(self.whole, content_type=content_type)

    def test_a_boundary_can_have_seventy_characters(self):
        long = "b" * 70
        body = self.whole.replace(BOUNDARY.encode(), long.encode())
        assert send(body, content_type=f"multipart/form-data; boundary={long}").files[0].name == "a.txt"

    def test_the_number_of_parts_is_limited(self):
        class Names(set[str]):
            def __contains__(self, name: object) -> bool:
                return name != "file"

        def send_parts(number: int) -> FormData:
            body = form(FILE, *[part(f"t{each}") for each in range(number - 1)])
            return send(body, form=Form(frozenset({"file"}), Names()))

        assert len(send_parts(PARTS).fields) == PARTS - 1
        with pytest.raises(BadForm, match="segment count"):
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
    def test_invalid_headers_of_a_part_are_rejected(self, headers):
        with pytest.raises(BadForm, match="form is broken"):
            send(form(part("file", b"content", "a", headers)))

    @pytest.mark.parametrize(
        "disposition",
        [b"", b"Content-Disposition: attachment; name=file\r\n", b"Content-Type: text/plain\r\n"],
    )
    def test_a_part_must_be_form_data(self, disposition):
        body = f"--{BOUNDARY}\r\n".encode() + disposition + b"\r\nx\r\n" + form()
        with pytest.raises(BadForm, match="Content-Disposition"):
            send(body)

    def test_more_than_the_content_length_is_not_read(self):
        body = io.BytesIO(self.whole + b"the next request")
        read_form(ONE, body, TYPE, len(self.whole), Kept().put)
        assert body.read() == b"the next request"

    @pytest.mark.parametrize("cut", [10, 200, CHUNK + 100])
    def test_a_broken_file_leaves_nothing_in_the_store(self, tmp_path, cut):
        store = LocalStore(tmp_path)
        with pytest.raises(BadForm):
            send(form(part("file", bytes(2 * CHUNK), "a"))[:cut], store)
        assert list(store.blobs()) == list((tmp_path / "tmp").iterdir()) == []

    @pytest.mark.parametrize("problem", [TooLarge("x"), StorageFull("x"), ConnectionError("x")])
    def test_errors_of_the_store_are_raised(self, problem):
        class Refusing(Kept):
            def put(self, chunks):
                next(iter(chunks))
                raise problem

        with pytest.raises(type(problem)):
            send(self.whole, Refusing())

    @given(st.data())
    def test_garbage_is_always_rejected_with_a_message(self, data):
        body = bytearray(self.whole)
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            got = send(bytes(body))
        except (BadForm, Invalid):
            return
        assert plain_name(filename(got)) == filename(got)
        assert set(got.fields) <= {"tags", "kind"}


class TestManyFiles:
    some = Form(frozenset({"file", "more"}), frozenset({"kind"}), at_least=0, at_most=3)

    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    @pytest.mark.parametrize("order", list(permutations(range(4))))
    def test_files_and_fields_can_be_in_any_order(self, order, length, tmp_path):
        store = LocalStore(tmp_path)
        parts = [
            part("file", b"1", "a"),
            part("file", b"22" * CHUNK, "b"),
            part("more", b"", "a"),
            part("kind", b"x"),
        ]
        data = send(form(*(parts[each] for each in order)), store, length=length, form=self.some)
        assert data.fields == {"kind": "x"}
        files = [("file", "a", 1), ("file", "b", 2 * CHUNK), ("more", "a", 0)]
        assert [(file.field, file.name, file.content.size) for file in data.files] == [
            files[each] for each in order if each < 3
        ]
        assert all(store.verify(file.content.sha256) for file in data.files)

    @pytest.mark.parametrize(
        ("at_most", "words"), [(1, "Only one file can be sent at a time."), (2, "At most 2 files.")]
    )
    def test_too_many_files_are_rejected_before_they_are_stored(self, at_most, words):
        many = Form(frozenset({"file", "blob"}), at_most=at_most)
        files = [part("file", bytes([each]), "a") for each in range(at_most)]
        kept = Kept()
        assert len(send(form(*files), kept, form=many).files) == at_most
        assert refused(form(*files, part("blob", b"beyond", "b")), kept=kept, form=many) == ("blob", words)
        assert kept.content == bytes([at_most - 1])

    @pytest.mark.parametrize(("at_least", "words"), [(1, "A file is required."), (2, "At least 2 files are required.")])
    def test_too_few_files_are_rejected(self, at_least, words):
        many = Form(frozenset({"file", "blob"}), at_least=at_least, at_most=5)
        files = [FILE] * at_least
        assert len(send(form(*files), form=many).files) == at_least
        assert refused(form(*files[1:]), form=many) == ("blob", words)

    @pytest.mark.parametrize("parts", [[], [part("kind", b"x")]])
    def test_files_can_be_optional(self, parts):
        assert send(form(*parts), form=self.some).files == []

    def test_further_files_raise_the_number_of_parts(self):
        many = Form(frozenset({"file"}), frozenset(map(str, range(PARTS))), at_most=30)
        files, fields = [FILE] * 30, [part(str(each)) for each in range(PARTS)]
        data = send(form(*files, *fields[1:]), form=many)
        assert (len(data.files), len(data.fields)) == (30, PARTS - 1)
        with pytest.raises(BadForm, match="segment count"):
            send(form(*files, *fields), form=many)

    def test_many_files_are_never_in_memory(self, tmp_path):
        store = LocalStore(tmp_path)
        head, tail = part("file", b"@", "a").split(b"@")

        class Body:
            """A form of three files of 8 MiB that is generated while it is read."""

            pieces = iter([*[head, *[bytes(CHUNK)] * 32, tail] * 3, form()])

            def read(self, size):
                return next(self.pieces, b"")

        tracemalloc.start()
        try:
            got = read_form(self.some, Body(), TYPE, None, store.put)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [file.content.size for file in got.files] == [8 * MIB] * 3
        assert peak < 4 * MIB


class TestUnknownFields:
    keeping = Form(frozenset({"file"}), frozenset({"kind"}), at_least=0, unknown="keep")

    def test_are_kept_as_text_if_the_form_keeps_them(self):
        data = send(form(part("owner", b"1"), FILE, part("", b"2"), part("kind", b"x")), form=self.keeping)
        assert data.fields == {"owner": "1", "": "2", "kind": "x"}
        assert len(data.files) == 1

    @pytest.mark.parametrize(
        ("parts", "field", "words"),
        [
            ([part("owner", b"1"), part("owner", b"1")], "owner", "Sent more than once."),
            ([part("owner", b"1", "a.txt")], "owner", "Unknown field."),
            ([part("ow\0ner", b"1")], "ow\0ner", "A field name must not contain NUL."),
            ([part("owner", b"a\0b")], "owner", "Must not contain NUL."),
            ([part("owner", b"x" * (TEXT + 1))], "owner", "Must have at most 65536 bytes."),
        ],
    )
    def test_follow_the_rules_of_text_fields(self, parts, field, words):
        assert refused(form(*parts), form=self.keeping) == (field, words)


class TestUrlencoded:
    optional = Form(frozenset({"file"}), frozenset({"kind", "tags", "größe"}), at_least=0)
    keeping = Form(frozenset(), at_least=0, at_most=0, unknown="keep")
    media_type = "application/x-www-form-urlencoded"

    def send(self, body: bytes, form=optional, content_type=media_type, **arguments) -> FormData:
        return send(body, content_type=content_type, form=form, **arguments)

    def refused(self, body: bytes, form=optional) -> tuple[str, str]:
        return refused(body, content_type=self.media_type, form=form)

    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            (b"", {}),
            (b"kind=x", {"kind": "x"}),
            (b"kind", {"kind": ""}),
            (b"kind=", {"kind": ""}),
            (b"&kind=x&&tags=y&", {"kind": "x", "tags": "y"}),
            (b"kind=a+b%20c%2Bd", {"kind": "a b c+d"}),
            (b"kind=a=b%26c", {"kind": "a=b&c"}),
            (b"gr%C3%B6%c3%9fe=%E2%82%AC", {"größe": "€"}),
            ("größe=€".encode(), {"größe": "€"}),
        ],
    )
    def test_fields_are_decoded(self, body, fields, length):
        assert self.send(body, length=length) == FormData(fields, [])

    @pytest.mark.parametrize("tail", ["; charset=utf-8", "; charset=UTF8", ";charset=us-ascii", "; a=b"])
    def test_parameters_of_the_content_type_are_accepted(self, tail):
        assert self.send(b"kind=x", content_type=self.media_type.title() + tail).fields == {"kind": "x"}

    @pytest.mark.parametrize(
        ("body", "field", "words"),
        [
            (b"kind=x&kind=x", "kind", "Sent more than once."),
            (b"kind=x&%6bind=x", "kind", "Sent more than once."),
            (b"owner=1", "owner", "Unknown field."),
            (b"=1", "", "Unknown field."),
            (b"file=a.txt", "file", "Must be a file, with a filename in UTF-8."),
            (b"kind=a%00b", "kind", "Must not contain NUL."),
            (b"kind=" + b"%78" * (TEXT + 1), "kind", "Must have at most 65536 bytes."),
        ],
    )
    def test_an_error_names_its_field(self, body, field, words):
        assert self.refused(body) == (field, words)

    def test_unknown_fields_are_kept_if_the_form_keeps_them(self):
        assert self.send(b"a=1&b=2", self.keeping).fields == {"a": "1", "b": "2"}
        assert self.refused(b"a=1&a=2", self.keeping) == ("a", "Sent more than once.")
        assert self.refused(b"a%00=1", self.keeping) == ("a\0", "A field name must not contain NUL.")

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"kind=%", "percent-encoding"),
            (b"kind=%4", "percent-encoding"),
            (b"kind=%zz", "percent-encoding"),
            (b"k%ind=x", "percent-encoding"),
            (b"kind=%ff", "A text field must be in UTF-8"),
            (b"kind=\xff", "A text field must be in UTF-8"),
            (b"kind=%ed%a0%80", "A text field must be in UTF-8"),
            (b"%ff=x", "A field name must be in UTF-8"),
            (b"x" * (FIELD_NAME + 1), "A field name must have at most 4096 bytes"),
        ],
    )
    def test_invalid_encoding_is_rejected(self, body, words):
        with pytest.raises(BadForm, match=words):
            self.send(body)

    def test_another_character_set_is_rejected(self):
        with pytest.raises(BadForm, match="UTF-8"):
            self.send(b"kind=x", content_type=f"{self.media_type}; charset=latin-1")

    def test_the_number_of_fields_is_limited(self):
        def body(number: int) -> bytes:
            return b"&".join(b"f%d" % each for each in range(number))

        many = self.keeping.parts
        assert len(self.send(body(many), self.keeping).fields) == many
        with pytest.raises(BadForm, match="field count"):
            self.send(body(many + 1), self.keeping)

    @pytest.mark.parametrize("length", [-1, None], ids=["with length", "chunked"])
    def test_the_size_is_limited(self, length):
        body = b"kind=x".ljust(BODY, b"&")
        assert self.send(body, length=length).fields == {"kind": "x"}
        with pytest.raises(TooLarge, match=str(BODY)):
            self.send(body + b"&", length=length)

    def test_a_body_over_the_limit_is_not_read(self):
        body = io.BytesIO(bytes(10))
        with pytest.raises(TooLarge):
            read_form(self.optional, body, self.media_type, BODY + 1, Kept().put)
        assert body.tell() == 0

    def test_a_truncated_body_is_rejected(self):
        with pytest.raises(BadForm, match="Unexpected end"):
            self.send(b"kind=x", length=7)

    def test_more_than_the_content_length_is_not_read(self):
        body = io.BytesIO(b"kind=x&tags=the next request")
        assert read_form(self.optional, body, self.media_type, 6, Kept().put).fields == {"kind": "x"}
        assert body.tell() == 6

    def test_a_body_in_small_pieces_is_read_to_its_end(self):
        class Slow(io.BytesIO):
            def read(self, size=-1):
                return super().read(min(size, 2))

        for length in (None, 13):
            assert read_form(self.optional, Slow(b"kind=x&tags=y"), self.media_type, length, Kept().put).fields == {
                "kind": "x",
                "tags": "y",
            }

    def test_a_form_that_requires_a_file_is_not_urlencoded(self):
        assert ONE.media_types == ("multipart/form-data",)
        assert self.optional.media_types == ("multipart/form-data", "application/x-www-form-urlencoded")
        with pytest.raises(BadForm, match="content type must be multipart/form-data"):
            self.send(b"kind=x", ONE)
        with pytest.raises(BadForm, match="content type must be multipart/form-data or application/x-www-form-urlenc"):
            self.send(b"kind=x", content_type="text/plain")

    @given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=PARTS - 1))
    def test_text_that_a_browser_encodes_is_decoded(self, fields):
        body = urlencode(fields).encode()
        if any("\0" in text for pair in fields.items() for text in pair):
            with pytest.raises(Invalid) as caught:
                self.send(body, self.keeping)
            assert all("NUL" in error.description for error in caught.value.errors)
        else:
            assert self.send(body, self.keeping).fields == fields

    @given(st.binary(max_size=60))
    def test_garbage_is_rejected_with_a_message_or_is_text(self, body):
        try:
            got = self.send(body, self.keeping)
        except (BadForm, Invalid):
            return
        assert all("\0" not in text and text.encode() for text in got.fields.values() if text)


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
    def test_is_unchanged(self, name):
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
    def test_unsafe_names_are_rejected(self, name, words):
        with pytest.raises(ValueError, match=words):
            plain_name(name)

    @given(st.text(max_size=30))
    @example("\x00")
    def test_an_accepted_name_is_a_single_component_of_a_path(self, tmp_path_factory, name):
        try:
            plain_name(name)
        except ValueError:
            return
        assert name.encode().decode() == name
        folder = tmp_path_factory.getbasetemp()
        assert (folder / name).parent == folder
        assert (folder / name).name == name
