"""Options of functions, and the check of a task's arguments against them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from mlapi.errors import FieldError, Invalid
from mlapi.models.base import JsonObject
from mlapi.values import INT64, storable

Value: TypeAlias = bool | int | float | str
"""The value of an option."""

TYPES = ("str", "int", "float", "bool", "enum")
"""The types of options; the values of an enum are strings."""

WORDS = {
    "str": "a string",
    "int": "an integer of 64 bits",
    "float": "a finite number",
    "bool": "true or false",
    "enum": "one of the values of the enum",
}
"""Descriptions of the types in error messages."""


LISTED = 10
"""Maximum number of options in an error message."""


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter of a function: its type, its default, and whether it is required.

    `minimum` and `maximum` limit the value of a number and the length of a string.
    """

    name: str
    type: str
    doctxt: str = ""
    required: bool = False
    default: Value | None = None
    enum_values: tuple[str, ...] | None = None
    minimum: float | int | None = None
    maximum: float | int | None = None

    def as_json(self) -> JsonObject:
        """The option as a JSON object without null fields."""
        document: JsonObject = {
            "name": self.name,
            "type": self.type,
            "doctxt": self.doctxt,
            "required": self.required,
        }
        limits = {"default": self.default, "minimum": self.minimum, "maximum": self.maximum}
        document |= {key: value for key, value in limits.items() if value is not None}
        if self.enum_values is not None:
            document["enum_values"] = list(self.enum_values)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Option":
        """The option that was written by `as_json`."""
        values = document.get("enum_values")
        return cls(**{**document, "enum_values": None if values is None else tuple(values)})

    def problem_with(self, value: object) -> str | None:
        """The reason why `value` is not valid for this option, or None."""
        if not self._has_type(value):
            return f"Must be {WORDS[self.type]}."
        if self.type == "enum" and value not in (self.enum_values or ()):
            return f"Must be one of {', '.join(self.enum_values or ())}."
        if self.type == "str" and isinstance(value, str):
            return self._problem_with_length(value)
        if isinstance(value, int | float) and self.type in ("int", "float"):
            return self._problem_with_bounds(value)
        return None

    def kept(self, value: Value) -> Value:
        """The value as it is stored: an integer for a float option becomes a float."""
        return float(value) if self.type == "float" else value

    def _has_type(self, value: object) -> bool:
        if self.type == "bool" or isinstance(value, bool):
            return self.type == "bool" and isinstance(value, bool)
        if self.type in ("str", "enum"):
            return isinstance(value, str)
        if isinstance(value, int):
            return -INT64 <= value < INT64
        return self.type == "float" and isinstance(value, float) and math.isfinite(value)

    def _problem_with_length(self, value: str) -> str | None:
        if not storable(value):
            return "Must not contain NUL or lone surrogates."
        if self.minimum is not None and len(value) < self.minimum:
            return f"Must have a length of at least {self.minimum}."
        if self.maximum is not None and len(value) > self.maximum:
            return f"Must have a length of at most {self.maximum}."
        return None

    def _problem_with_bounds(self, value: float) -> str | None:
        if self.minimum is not None and value < self.minimum:
            return f"Must be at least {self.minimum}."
        if self.maximum is not None and value > self.maximum:
            return f"Must be at most {self.maximum}."
        return None


def check_arguments(
    options: Sequence[Option], arguments: Mapping[str, object], prefix: str = "arguments"
) -> dict[str, Value]:
    """The arguments with which a function is called: those of the task, and defaults for the others.

    Null is equivalent to an omitted argument. Raises `Invalid` with an error for every argument that is not valid.
    """
    problems = (*_unknown(options, arguments), *_invalid(options, arguments))
    if errors := [FieldError(f"{prefix}.{name}", problem) for name, problem in problems]:
        raise Invalid(errors)
    chosen = [(option, _argument(option, arguments)) for option in options]
    return {option.name: option.kept(cast(Value, value)) for option, value in chosen if value is not None}


def _argument(option: Option, arguments: Mapping[str, object]) -> object:
    value = arguments.get(option.name)
    return option.default if value is None else value


def _unknown(options: Sequence[Option], arguments: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    known = {option.name: None for option in options}
    listed = ", ".join(list(known)[:LISTED]) + (f" and {len(known) - LISTED} more" if len(known) > LISTED else "")
    hint = f"The options are {listed}." if known else "The function has no options."
    for name in arguments:
        if name not in known:
            yield name, f"Unknown option. {hint}"


def _invalid(options: Sequence[Option], arguments: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for option in options:
        value = _argument(option, arguments)
        if value is None:
            if option.required:
                yield option.name, "Required."
        elif problem := option.problem_with(value):
            yield option.name, problem
