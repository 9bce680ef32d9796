"""Domain errors: violations of rules, independent of HTTP.

`mlapi.http.problems` decides the status of the response and the location of errors in the request.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class FieldError(NamedTuple):
    """An error of one field: its dotted name and a description."""

    name: str
    description: str


class DomainError(Exception):
    """Base class of domain errors; the message is addressed to the caller, `extra` holds further details."""

    extra: dict[str, object] = {}


class Invalid(DomainError):
    """A request violates the rules of one or more fields; `errors` lists all of them."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = list(errors)
        super().__init__("The request is not valid.")

    @classmethod
    def field(cls, name: str, description: str) -> "Invalid":
        """The error of a single field."""
        return cls([FieldError(name, description)])


class FieldErrors:
    """Field errors collected from several checks, to be raised together."""

    def __init__(self) -> None:
        self._errors: dict[FieldError, None] = {}  # A set in order: thousands of errors are compared at once.

    def __iter__(self) -> Iterator[FieldError]:
        return iter(self._errors)

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, name: str, description: str) -> None:
        """Add an error, unless it is a duplicate."""
        self._errors[FieldError(name, description)] = None

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Catch `Invalid` and add its errors."""
        try:
            yield
        except Invalid as invalid:
            for error in invalid.errors:
                self.add(*error)

    def raise_all(self) -> None:
        """Raise `Invalid` with all errors, if there are any."""
        if self._errors:
            raise Invalid(self._errors)


def all_of(checks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Perform all checks; returns their results, or raises `Invalid` with the errors of all of them."""
    results: dict[str, T] = {}
    errors = FieldErrors()
    for name, check in checks.items():
        with errors.collect():
            results[name] = check()
    errors.raise_all()
    return results


class Gone(DomainError):
    """The resource of a request was deleted by another request in the meantime."""

    def __init__(self) -> None:
        super().__init__("Not found.")


class Conflict(DomainError):
    """A request conflicts with the current state; `extra` describes the conflict."""

    def __init__(self, message: str, **extra: object) -> None:
        super().__init__(message)
        self.extra = extra


class AttemptOver(Conflict):
    """A runner writes for an attempt that has ended."""

    def __init__(self) -> None:
        super().__init__("The attempt has ended.")


class TooLarge(DomainError):
    """A request body or a part of it exceeds a size limit."""


class Busy(DomainError):
    """The server has no capacity left for slow work."""

    def __init__(self) -> None:
        super().__init__("The server is busy. Retry later.")


class NotReady(DomainError):
    """Parts of the service cannot do their work; `extra` has the states of all parts."""

    def __init__(self, names: Iterable[str], **extra: object) -> None:
        super().__init__(f"Not ready: {', '.join(names)}.")
        self.extra = extra


class StorageFull(DomainError):
    """No space is left on the storage device."""
