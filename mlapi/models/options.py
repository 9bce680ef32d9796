"""The options a function takes, and whether the arguments of a task fit them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlapi.errors import FieldError, Invalid
from mlapi.schemas.types import INT64, storable

TYPES = ("str", "int", "float", "bool", "enum")
"""The types an option can have; the values of an enum are strings."""

WORDS = {
    "str": "a string",
    "int": "an integer of 64 bits",
    "float": "a finite number",
    "bool": "true or false",
    "enum": "one of the values offered",
}
"""What a value of each type has to be, in words."""


@dataclass(frozen=True, slots=True)
class Option:
    """One thing a caller may set: its type, whether it must be set, and what it is otherwise.

    `minimum` and `maximum` bound the value of a number and the length of a string.
    """

    name: str
    type: str
    doctxt: str = ""
    required: bool = False
    default: Any = None
    enum_values: tuple[str, ...] | None = None
    minimum: float | int | None = None
    maximum: float | int | None = None

    def as_json(self) -> dict[str, Any]:
        """The option as JSON; what is not set is left out."""
        document: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "doctxt": self.doctxt,
            "required": self.required,
        }
        for key in ("default", "minimum", "maximum"):
            if (value := getattr(self, key)) is not None:
                document[key] = value
        if self.enum_values is not None:
            document["enum_values"] = list(self.enum_values)
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Option":
        """The option that `as_json` wrote down."""
        offered = document.get("enum_values")
        return cls(**{**document, "enum_values": None if offered is None else tuple(offered)})

    def problem_with(self, value: Any) -> str | None:
        """Why `value` cannot be this option's, in words, or None where it can."""
        if not self._fits(value):
            return f"Must be {WORDS[self.type]}."
        if self.type == "str":
            return self._problem_with_length(value)
        if self.type == "enum" and value not in (self.enum_values or ()):
            return f"Must be one of {', '.join(self.enum_values or ())}."
        if self.type in ("int", "float"):
            return self._problem_with_bounds(value)
        return None

    def kept(self, value: Any) -> Any:
        """The value as it is stored: a float's is a float, however it was written."""
        return float(value) if self.type == "float" else value

    def _fits(self, value: Any) -> bool:
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


def check_arguments(options: Sequence[Option], arguments: dict[str, Any], prefix: str = "arguments") -> dict[str, Any]:
    """Return the arguments a function is called with: those given, and the defaults of the others.

    A null stands for an argument left out. Everything that does not fit is refused at once, as
    `Invalid` with an error for each argument.
    """
    errors = [
        FieldError(f"{prefix}.{name}", text)
        for name, text in (*_unknown(options, arguments), *_unfit(options, arguments))
    ]
    if errors:
        raise Invalid(errors)
    chosen = [(option, _chosen(option, arguments)) for option in options]
    return {option.name: option.kept(value) for option, value in chosen if value is not None}


def _chosen(option: Option, arguments: dict[str, Any]) -> Any:
    value = arguments.get(option.name)
    return option.default if value is None else value


def _unknown(options: Sequence[Option], arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    known = [option.name for option in options]
    offered = f"The options are {', '.join(known)}." if known else "The function has no options."
    for name in arguments:
        if name not in known:
            yield name, f"No such option. {offered}"


def _unfit(options: Sequence[Option], arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for option in options:
        value = _chosen(option, arguments)
        if value is None:
            if option.required:
                yield option.name, "Must be given."
        elif problem := option.problem_with(value):
            yield option.name, problem
