"""Request bodies without structure."""

import io
import random

import pytest

from mlapi.errors import TooLarge
from mlapi.http.bodies import read_chunks, read_whole
from mlapi.storage import CHUNK


class TestRaw:
    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
    def test_reads_to_the_end_in_chunks(self, size):
        body = random.Random(size).randbytes(size)
        chunks = list(read_chunks(io.BytesIO(body)))
        assert b"".join(chunks) == body
        assert all(0 < len(chunk) <= CHUNK for chunk in chunks)

    def test_the_size_of_chunks_can_be_chosen(self):
        assert list(read_chunks(io.BytesIO(b"abcde"), 2)) == [b"ab", b"cd", b"e"]


class TestWhole:
    @pytest.mark.parametrize(("length", "content"), [(0, b""), (None, b""), (3, b"abc"), (5, b"abcde")])
    def test_reads_the_length_within_the_limit(self, length, content):
        assert read_whole(io.BytesIO(b"abcdefgh"), length, 5) == content

    def test_nothing_is_read_beyond_the_limit(self):
        body = io.BytesIO(b"abcdef")
        with pytest.raises(TooLarge, match="at most 5 bytes"):
            read_whole(body, 6, 5)
        assert body.tell() == 0
