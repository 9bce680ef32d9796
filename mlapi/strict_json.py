"""A strict JSON parser: JSON as RFC 8259 defines it, without the extensions and ambiguities that Python accepts.

The job runner uses it too, so it needs nothing but the standard library.
"""

import json
import math
from collections import Counter

INTEGER_DIGITS = 20
"""The maximum number of characters of an integer: more than any database column holds."""


class NotJson(ValueError):
    """Text that is not strict JSON. The message says why and has no final period."""


def loads(text: bytes | str, *, allow_bom: bool = False) -> object:
    """Parse JSON, or raise `NotJson`. Bytes must be UTF-8, with a byte order mark only where it is allowed.

    Duplicate keys, NaN, infinities, numbers out of range and deep nesting are errors.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig" if allow_bom else "utf-8")
        return _DECODER.decode(text)
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise NotJson(str(error)) from None


def _constant(name: str) -> object:
    raise NotJson(f"{name} is not a JSON value")


def _integer(digits: str) -> int:
    if len(digits) > INTEGER_DIGITS:
        raise NotJson(f"an integer has more than {INTEGER_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson(f"the number {digits[:20]} is out of range")
    return number


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        duplicate = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise NotJson(f"duplicate key {duplicate[:80]!r}")
    return members


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_integer, parse_float=_float, object_pairs_hook=_object)
