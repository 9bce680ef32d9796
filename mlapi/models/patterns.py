"""Patterns by which a job chooses its inputs from the outputs of its parents."""

import fnmatch
import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from mlapi.models.base import JsonObject

ALL = "*"
"""The key of the patterns for the files of all parents that have none of their own."""

RUN = 0
"""The position that stands for the files of the run, which first jobs take; jobs have positions from 1."""


LENGTH, STARS, TOTAL = 100, 10, 1000
"""Maximum number of characters of a glob, of `*` in it, and of characters of all globs of a list.

The time of a comparison with a name is at most proportional to both lengths.
"""


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
            names = tuple(cast("list[str]", globs))
            chosen += [file for file in files if _matches(names, file.name)]
    return chosen


@functools.lru_cache(maxsize=10_000)
def _matches(globs: tuple[str, ...], name: str) -> bool:
    """Whether a name matches one of the globs; the jobs of a grid ask the same again and again."""
    return _compiled(globs).match(name) is not None


@functools.lru_cache(maxsize=200)
def _compiled(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all globs; without any, it matches nothing."""
    return re.compile("|".join(map(fnmatch.translate, globs)) or r"(?!)")
