"""The rule for names of users' files. The job runner uses it too, so it needs nothing but the standard library."""

import re

NAME_LIMIT = 240
"""The maximum size of a file name in bytes of UTF-8, below the 255 of common file systems."""

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line separators, and characters that change the direction of writing."""


def plain_name(name: str, reserved: str | None = None) -> str:
    """Return a file name unchanged, or raise `ValueError` if it is unsafe to use or to show, or `reserved`."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("A file name must not contain lone surrogates.") from None
    if not 1 <= size <= NAME_LIMIT:
        raise ValueError(f"A file name has from 1 to {NAME_LIMIT} bytes in UTF-8.")
    if "\0" in name:
        raise ValueError("A file name must not contain NUL.")
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise ValueError("A file name must not be a path.")
    if UNSAFE.search(name):
        raise ValueError("A file name must not contain control characters or change the direction of writing.")
    if name == reserved:
        raise ValueError("This file name is reserved.")
    return name
