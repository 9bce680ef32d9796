"""Strict JSON: one meaning or an error."""

import pytest

from mlapi.strict_json import NotJson, loads


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0.5e3", -500.0),
        ('"é"'.encode(), "é"),
        ("9" * 20, 10**20 - 1),
        ('{"a": [true, false, null, {}]}', {"a": [True, False, None, {}]}),
        ('{"a": {"b": 1}, "b": 2}', {"a": {"b": 1}, "b": 2}),
    ],
)
def test_json_is_parsed(text, value):
    assert loads(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("1 2", "Extra data"),
        ("NaN", "NaN is not a JSON value"),
        ("[-Infinity]", "-Infinity is not a JSON value"),
        ("1e999", "the number 1e999 is out of range"),
        ("-1e999", "the number -1e999 is out of range"),
        ("9" * 21, "an integer has more than 20 digits"),
        ("9" * 5000, "an integer has more than 20 digits"),
        ('{"a": 1, "b": 2, "a": 1}', "duplicate key 'a'"),
        ('[{"b": {"a": 1, "a": 1}}]', "duplicate key 'a'"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        (b'"\xff"', "not UTF-8: invalid start byte at byte 1"),
        ("1".encode("utf-16"), "not UTF-8"),
    ],
)
def test_any_other_text_is_an_error(text, reason):
    with pytest.raises(NotJson) as caught:
        loads(text)
    assert str(caught.value).startswith(reason)


def test_a_byte_order_mark_is_allowed_only_on_request():
    text = b'\xef\xbb\xbf{"a": 1}'
    assert loads(text, allow_bom=True) == {"a": 1}
    assert loads(b"1", allow_bom=True) == 1
    with pytest.raises(NotJson):
        loads(text)
