"""YAML read from its events, into nothing but strings, numbers, bools, null, lists and mappings.

What makes YAML dangerous or surprising is refused and named: anchors, tags, merge keys, keys that come twice,
several documents, and numbers that YAML 1.1 would read as something else than they look like.
"""

import math
import re
from typing import Any

import yaml

DEPTH_LIMIT = 16
EVENTS_LIMIT = 6000
"""Keys, values and brackets of a manifest; those of MLsploit's largest modules are some 1500."""

DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")

# Parsing in C keeps the largest manifest under 100 ms; PyYAML has it wherever it comes as a wheel.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(ValueError):
    """YAML that cannot be read or is not taken; `name` is the dotted name of where."""

    def __init__(self, name: str, description: str) -> None:
        self.name = name
        super().__init__(description)


def load(text: str) -> Any:
    """Return the value of the one document in `text`, or raise `BadYaml`."""
    return _Events(text).document()


class _Events:
    """The events of a document, and the plain values that they stand for."""

    def __init__(self, text: str) -> None:
        self.events = yaml.parse(text, Loader=_Loader)
        self.left = EVENTS_LIMIT

    def document(self) -> Any:
        """Return the one document's value."""
        self._next()
        if isinstance(start := self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), ())
        self._next()
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise _refused(start, (), "There must be one document, not several.")
        return value

    def _next(self) -> Any:
        self.left -= 1
        if self.left < 0:
            raise BadYaml("", f"The manifest holds more than {EVENTS_LIMIT} keys and values.")
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise BadYaml("", f"Line {line}: this is not YAML: {error.problem}.") from error
        except yaml.YAMLError as error:
            raise BadYaml("", "This is not YAML: it holds characters that cannot be printed.") from error

    def _value(self, event: Any, path: tuple[str, ...]) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused(event, path, "Anchors and aliases are not taken.")
        if event.tag is not None:
            raise _refused(event, path, "Tags are not taken.")
        if isinstance(event, yaml.ScalarEvent):
            return _plain(event, path) if event.implicit[0] else event.value
        if len(path) >= DEPTH_LIMIT:
            raise _refused(event, path, f"Must nest at most {DEPTH_LIMIT} deep.")
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _sequence(self, path: tuple[str, ...]) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, str(len(values)))))
        return values

    def _mapping(self, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event, path) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                raise _refused(event, path, "Keys must be strings: put quotes around those that are not.")
            if key == "<<":
                raise _refused(event, path, "Merge keys are not taken.")
            if key in values:
                raise _refused(event, (*path, key), "This key is there twice.")
            values[key] = self._value(self._next(), (*path, key))
        return values


def _plain(event: Any, path: tuple[str, ...]) -> Any:
    """Return what a scalar without quotes stands for; what YAML would change silently is refused."""
    text = event.value
    kind = _kind(text) if len(text) <= 100 else "str"
    if kind == "null":
        return None
    if kind == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    if kind in ("int", "float"):
        if DECIMAL.fullmatch(text):
            return int(text)
        if not FLOAT.fullmatch(text) or math.isinf(float(text)):
            raise _refused(event, path, f"{text} must be a finite decimal number, or a string in quotes.")
        return float(text)
    return text


def _kind(text: str) -> str:
    """What YAML 1.1 takes a plain scalar for; and numbers such as 1e3, as in JSON and YAML 1.2."""
    if FLOAT.fullmatch(text):
        return "float"
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ()):
        if pattern.match(text):
            return str(tag).rpartition(":")[2]
    return "str"


def _refused(event: Any, path: tuple[str, ...], text: str) -> BadYaml:
    return BadYaml(".".join(path), f"Line {event.start_mark.line + 1}: {text}")
