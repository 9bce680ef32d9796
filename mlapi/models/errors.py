"""What the domain refuses, in its own words; `views/errors.py` says which status each of them is."""

from collections.abc import Iterable
from typing import Any, NamedTuple


class FieldError(NamedTuple):
    """One thing wrong with one field: where it was sent, its dotted name, and what is wrong."""

    location: str
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
    def field(cls, name: str, description: str, location: str = "body") -> "Invalid":
        """The error of a single field."""
        return cls([FieldError(location, name, description)])


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
