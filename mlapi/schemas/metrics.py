"""Request bodies and query strings of metrics."""

import datetime
import math
from typing import TypeGuard

import colander

from mlapi.models.metrics import NAME, POINTS, Point
from mlapi.schemas.pages import Number, optional
from mlapi.schemas.types import List, Schema, Text
from mlapi.values import INT64, storable

END_OF_TIME = 253_402_300_800
"""The first second after the year 9999, the last one of Python's dates, since 1970."""


class PointType(colander.SchemaType):
    """A point of a metric: one type, because the validation of a thousand objects by their fields takes too long."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the point, or raise `colander.Invalid`."""
        if cstruct is colander.null:
            return colander.null
        if not isinstance(cstruct, dict) or not cstruct.keys() <= {"name", "value", "step", "time"}:
            raise colander.Invalid(node, "Must be an object with name, value, step and time.")
        name, value, step, time = (cstruct.get(key) for key in ("name", "value", "step", "time"))
        if not isinstance(name, str) or not 0 < len(name) <= NAME or not storable(name):
            raise colander.Invalid(node, f"The name must be a string of 1 to {NAME} characters.")
        if not is_number(value):
            raise colander.Invalid(node, "The value must be a finite number.")
        if step is not None and (not isinstance(step, int) or isinstance(step, bool) or not -INT64 <= step < INT64):
            raise colander.Invalid(node, "The step must be an integer of 64 bits or null.")
        if not is_number(time) or not 0 <= time < END_OF_TIME:
            raise colander.Invalid(node, "The time must be in seconds since 1970.")
        moment = datetime.datetime.fromtimestamp(time, datetime.UTC).replace(tzinfo=None)
        return Point(name, float(value), step, moment)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, but no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Points(Schema):
    """Points that a function has recorded."""

    points = colander.SchemaNode(List(POINTS), colander.SchemaNode(PointType(), name="point"))


class Series(Schema):
    """The series to read, and its points."""

    name = optional(Text())
    after = colander.SchemaNode(Number(), missing=0)
    points = colander.SchemaNode(Number(), missing=POINTS, validator=colander.Range(1, POINTS))
