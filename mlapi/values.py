"""Values that every layer agrees on: what both databases can store, ids in URLs, and texts for terminals."""

import math
import re

INT64 = 2**63
"""The exclusive upper bound of the integers of both databases."""

PAGE = 200
"""Maximum number of items of a page."""


def row_id(text: str) -> int | None:
    """The id of a row in a text, or None if it has none: decimal digits without a leading zero."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19) or text[0] == "0":
        return None
    return int(text)


def one_line(text: str) -> str:
    """A text with a space for every sequence of control characters, line ends and spaces: safe for a terminal."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()


def storable(text: str) -> bool:
    """Whether both databases can store a text: PostgreSQL refuses NUL, UTF-8 has no lone surrogates."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))


def unkeepable(value: object, depth: int = 16, items: int = 10_000) -> str | None:
    """The reason why a JSON value cannot be stored, or None."""
    left = items
    stack = [(value, 1)]
    while stack:
        item, level = stack.pop()
        left -= 1
        if level > depth or left < 0:
            return f"Must nest at most {depth} deep and hold at most {items} values."
        if isinstance(item, dict):
            stack += [(key, level) for key in item] + [(child, level + 1) for child in item.values()]
        elif isinstance(item, list):
            stack += [(child, level + 1) for child in item]
        elif problem := _scalar_problem(item):
            return problem
    return None


def _scalar_problem(value: object) -> str | None:
    if isinstance(value, str) and not storable(value):
        return "Must not contain NUL or lone surrogates."
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return "Must not contain integers beyond 64 bits."
    if isinstance(value, float) and not math.isfinite(value):
        return "Must not contain NaN or infinities."
    return None
