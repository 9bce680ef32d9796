"""Query strings of lists: how many, from where on, and the filters of each collection."""

from typing import Any

import colander

from mlapi.models.files import Kind
from mlapi.models.jobs import Status
from mlapi.models.users import Role
from mlapi.schemas.types import INT64, Schema, Text

LIMIT = 200
"""Items of a page at most."""


class Number(Text):
    """A whole number that stands in a query string."""

    def deserialize(self, node: Any, cstruct: Any) -> Any:
        """Return the number, or raise `colander.Invalid` for anything but up to 19 digits."""
        text = super().deserialize(node, cstruct)
        if text is colander.null:
            return text
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < INT64):
            raise colander.Invalid(node, "Must be a whole number.")
        return int(text)


class TrueOrFalse(Text):
    """A bool that stands in a query string."""

    def deserialize(self, node: Any, cstruct: Any) -> Any:
        """Return the bool, or raise `colander.Invalid` for anything but true and false."""
        text = super().deserialize(node, cstruct)
        if text is colander.null:
            return text
        if text not in ("true", "false"):
            raise colander.Invalid(node, "Must be true or false.")
        return text == "true"


def given(kind: Any, **kw: Any) -> Any:
    """A parameter that may be left out."""
    return colander.SchemaNode(kind, missing=colander.drop, **kw)


class Page(Schema):
    """Where a page begins and how many items it has at most."""

    limit = colander.SchemaNode(Number(), missing=50, validator=colander.Range(1, LIMIT))
    after = given(Number())


class UsersPage(Page):
    """Filters of users."""

    role = given(Text(), validator=colander.OneOf(list(Role)))


class FilesPage(Page):
    """Filters of a user's files."""

    kind = given(Text(), validator=colander.OneOf(list(Kind)))
    name = given(Text())
    sha256 = given(Text())
    job = given(Number())


class AllFilesPage(FilesPage):
    """Filters of everybody's files."""

    owner = given(Text())


class PipelinesPage(Page):
    """Filters of a user's pipelines."""

    name = given(Text())
    enabled = given(TrueOrFalse())


class AllPipelinesPage(PipelinesPage):
    """Filters of everybody's pipelines."""

    owner = given(Text())


class AllRunsPage(Page):
    """Filters of everybody's runs."""

    owner = given(Text())
    pipeline = given(Number())


class JobsPage(Page):
    """Filters of a run's jobs."""

    status = given(Text(), validator=colander.OneOf(list(Status)))


class AllJobsPage(JobsPage):
    """Filters of everybody's jobs."""

    owner = given(Text())
    module = given(Text())
    function = given(Text())
