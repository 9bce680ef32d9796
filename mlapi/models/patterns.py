"""Patterns by which a job chooses its inputs from the outputs of its parents."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from mlapi.models.base import JsonObject

ALL = "*"
"""The key of the patterns for the files of all parents that have none of their own."""

RUN = 0
"""The position that stands for the files of the run, which first jobs take; jobs have positions from 1."""


class Named(NamedTuple):
    """A file by its id, with its name."""

    id: int
    name: str


def choose(patterns: JsonObject | None, sources: Mapping[int, Sequence[Named]]) -> list[Named]:
    """The files that the patterns select from those of the sources, which are in order of their positions.

    `patterns` maps positions as text, or `ALL`, to lists of globs. All files of a source without patterns are taken.
    """
    chosen: list[Named] = []
    for position, files in sources.items():
        globs = None if patterns is None else patterns.get(str(position), patterns.get(ALL))
        if globs is None:
            chosen += files
        else:
            chosen += [file for file in files if _matches(file.name, cast("list[str]", globs))]
    return chosen


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)
