"""A strict YAML parser: strings, numbers, bools, null, lists and mappings, parsed from the events of PyYAML.

Dangerous or surprising YAML is an error that names its place: anchors, tags, merge keys, duplicate keys, several
documents, and numbers that YAML 1.1 does not read as they look.
"""

import math
import re
from collections.abc import Iterator

import yaml

DEPTH_LIMIT = 16
EVENTS_LIMIT = 6000
"""The maximum number of keys, values and brackets. The largest modules of MLsploit have about 1500."""

DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")

# Parsing in C keeps the largest manifest under 100 ms. Every wheel of PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(ValueError):
    """YAML that is malformed or not supported. `name` is the dotted name of the place."""

    def __init__(self, name: str, description: str) -> None:
        self.name = name
        super().__init__(description)


def load(text: str) -> object:
    """Return the value of the only document in `text`, or raise `BadYaml`."""
    return Parser(yaml.parse(text, Loader=_Loader)).document()


class Parser:
    """A parser of the events of one document."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.events = events
        self.left = EVENTS_LIMIT

    def document(self) -> object:
        """Return the value of the document."""
        self._next()
        if isinstance(start := self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), ())
        self._next()
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise _error(start, (), "Only one document is allowed.")
        return value

    def _next(self) -> yaml.Event:
        self.left -= 1
        if self.left < 0:
            raise BadYaml("", f"The manifest has more than {EVENTS_LIMIT} keys and values.")
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise BadYaml("", f"Line {line}: invalid YAML: {error.problem}.") from error
        except yaml.YAMLError as error:
            raise BadYaml("", "Invalid YAML: the text has non-printable characters.") from error

    def _value(self, event: yaml.Event, path: tuple[str, ...]) -> object:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _error(event, path, "Anchors and aliases are not supported.")
        if getattr(event, "tag", None) is not None:
            raise _error(event, path, "Tags are not supported.")
        if isinstance(event, yaml.ScalarEvent):
            return _plain(event, path) if event.implicit[0] else event.value
        if len(path) >= DEPTH_LIMIT:
            raise _error(event, path, f"Nested deeper than {DEPTH_LIMIT} levels.")
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _sequence(self, path: tuple[str, ...]) -> list[object]:
        values: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, str(len(values)))))
        return values

    def _mapping(self, path: tuple[str, ...]) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event, path) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                raise _error(event, path, "Keys must be strings. Put other keys in quotes.")
            if key == "<<":
                raise _error(event, path, "Merge keys are not supported.")
            if key in values:
                raise _error(event, (*path, key), "Duplicate key.")
            values[key] = self._value(self._next(), (*path, key))
        return values


def _plain(event: yaml.ScalarEvent, path: tuple[str, ...]) -> str | float | bool | None:
    """Return the value of a scalar without quotes. Numbers that YAML would change silently are errors."""
    text: str = event.value
    kind = _kind(text) if len(text) <= 100 else "str"
    if kind == "null":
        return None
    if kind == "bool":
        return bool(yaml.SafeLoader.bool_values[text.lower()])
    if kind in ("int", "float"):
        if DECIMAL.fullmatch(text):
            return int(text)
        if not FLOAT.fullmatch(text) or math.isinf(float(text)):
            raise _error(event, path, f"{text} must be a finite decimal number, or a string in quotes.")
        return float(text)
    return text


def _kind(text: str) -> str:
    """Return the type of a plain scalar by YAML 1.1, and "float" for numbers such as 1e3, as in JSON and YAML 1.2."""
    if FLOAT.fullmatch(text):
        return "float"
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ()):
        if pattern.match(text):
            return str(tag).rpartition(":")[2]
    return "str"


def _error(event: yaml.Event, path: tuple[str, ...], text: str) -> BadYaml:
    line = event.start_mark.line + 1 if event.start_mark else 0
    return BadYaml(".".join(path), f"Line {line}: {text}")
