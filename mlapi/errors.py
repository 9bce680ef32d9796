"""What the domain refuses, in its own words.

Nothing here knows HTTP: which status and which part of a request an error belongs to is decided where requests are
answered.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class FieldError(NamedTuple):
    """One thing wrong with one field: its dotted name, and what is wrong."""

    name: str
    description: str


class DomainError(Exception):
    """What the rules of the domain refuse; the message is for the person who asked."""

    extra: dict[str, Any] = {}


class Invalid(DomainError):
    """What was sent breaks a rule; `errors` names every field at once."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = list(errors)
        super().__init__("The request is not valid.")

    @classmethod
    def field(cls, name: str, description: str) -> "Invalid":
        """The error of a single field."""
        return cls([FieldError(name, description)])


def all_of(checks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Make every one of the checks; returns what each returned, or raises `Invalid` with all that they refuse."""
    results: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name, check in checks.items():
        try:
            results[name] = check()
        except Invalid as invalid:
            errors += invalid.errors
    if errors:
        raise Invalid(errors)
    return results


class Conflict(DomainError):
    """What was asked does not fit the present state; `extra` gives what stands in its way."""

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.extra = extra


class AttemptOver(Conflict):
    """A runner reported for an attempt that no longer holds its job."""


class TooLarge(DomainError):
    """What was sent is over a limit of size."""


class StorageFull(DomainError):
    """There is no room left to keep what was sent."""
