"""What a function says it made: `output.json`, taken for what it is, a stranger's word."""

from __future__ import annotations

import json
import math
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO

MANIFEST = "output.json"
MANIFEST_LIMIT = 4 * 2**20
"""Bytes that output.json may have."""

FILES_LIMIT = 1000
"""Files that one job may leave."""


class BadOutput(Exception):
    """What a function left cannot be taken; the message is for the module's author."""


class Output:
    """One file that a function left: name, tags, where it comes from, and which file on disk it is."""

    __slots__ = ("identity", "name", "origin", "size", "tags")

    def __init__(self, name: str, tags: dict[str, Any], origin: str, found: os.stat_result) -> None:
        self.name, self.tags, self.origin = name, tags, origin
        self.identity = (found.st_dev, found.st_ino)
        self.size = found.st_size


class Outputs:
    """All that a function left: its files, its metrics, and the names of the files that are not kept."""

    __slots__ = ("files", "folder", "left_out", "metrics")

    def __init__(self, folder: str, files: list[Output], metrics: dict[str, Any], left_out: list[str]) -> None:
        self.folder, self.files, self.metrics, self.left_out = folder, files, metrics, left_out

    def open(self, output: Output) -> BinaryIO:
        """Open one of the files, if it still is the file that was seen."""
        with _Folder(self.folder) as folder:
            number = folder.open(output.name)
        found = os.fstat(number)
        if (found.st_dev, found.st_ino) != output.identity or found.st_size != output.size:
            os.close(number)
            raise BadOutput(f"The output {output.name!r} changed while it was read.")
        return os.fdopen(number, "rb", buffering=0)


class _Folder:
    """The output folder, held open: whoever puts a link in its place later changes nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise BadOutput("The function removed its output folder.") from error

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._number)

    def open(self, name: str) -> int:
        """Open a regular file of the folder, no link; never wait for one that is a pipe."""
        absent = f"output.json names {name!r}, but it is not in the output folder."
        if name == MANIFEST:
            absent = "The function left no output.json."
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            number = os.open(name, flags, dir_fd=self._number)
        except FileNotFoundError as error:
            raise BadOutput(absent) from error
        except OSError as error:
            # A link is ELOOP, a socket is ENXIO; a folder opens and is found out below.
            raise BadOutput(f"{name!r} in the output folder is not a file that can be read.") from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise BadOutput(f"{name!r} in the output folder is not a regular file.")
        return number

    def stat(self, name: str) -> os.stat_result:
        """Say which regular file the name stands for."""
        number = self.open(name)
        try:
            return os.fstat(number)
        finally:
            os.close(number)


def read_outputs(folder: str | os.PathLike[str], inputs: Iterable[str]) -> Outputs:
    """Read `folder`/output.json and find the files it names; `inputs` are the names of the job's inputs."""
    with _Folder(folder) as opened:
        said = _parse(_manifest(opened))
        names = _names(said, "files", FILES_LIMIT)
        origins = _origins(said, names, frozenset(inputs))
        files = [
            Output(name, tags, origins[name], opened.stat(name))
            for name, tags in zip(names, _tags(said, len(names)), strict=True)
            if name in origins
        ]
    left_out = [name for name in names if name not in origins]
    return Outputs(os.fspath(folder), files, _metrics(said), left_out)


def _manifest(folder: _Folder) -> bytes:
    """Return the bytes of output.json, never more than its limit."""
    with os.fdopen(folder.open(MANIFEST), "rb") as manifest:
        data = manifest.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise BadOutput(f"output.json is larger than {MANIFEST_LIMIT // 2**20} MiB.")
    return data


def _parse(data: bytes) -> dict[str, Any]:
    """Read strict JSON: no NaN, no number beyond a float, no key twice, an object at the top."""
    try:
        said = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError as error:
        raise BadOutput("output.json is not JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise BadOutput(f"output.json is not JSON: {error}.") from error
    if not isinstance(said, dict):
        raise BadOutput("output.json is not a JSON object.")
    return said


def _no_constant(name: str) -> Any:
    """Refuse what Python's JSON takes and JSON has not."""
    raise ValueError(f"{name} is no JSON value")


def _finite(digits: str) -> float:
    """Read a number, unless it only fits as an infinity."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is beyond what a number can hold")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, unless a key comes twice."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"the key {name!r} comes twice")
        made[name] = value
    return made


def _names(said: dict[str, Any], key: str, limit: int) -> list[str]:
    """Return a list of plain file names, each once."""
    names = said.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadOutput(f"output.json needs a list of names as {key!r}.")
    if len(names) > limit:
        raise BadOutput(f"output.json names {len(names)} files; {limit} are allowed.")
    seen = set()
    for name in names:
        if not _plain(name):
            raise BadOutput(f"output.json names {name!r}, which is not a plain file name.")
        if name in seen:
            raise BadOutput(f"output.json names {name!r} twice in {key!r}.")
        seen.add(name)
    return names


def _plain(name: str) -> bool:
    """Whether a name stays in its folder, can be written down, and is not output.json itself."""
    if name in ("", ".", "..", MANIFEST) or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= 255
    except UnicodeEncodeError:
        return False


def _origins(said: dict[str, Any], names: list[str], inputs: frozenset[str]) -> dict[str, str]:
    """Say of each file whether it is new, a changed input or an input as it was; others have no entry."""
    created, modified = (_subset(said, key, names) for key in ("files_created", "files_modified"))
    for name in sorted(created & modified):
        raise BadOutput(f"output.json calls {name!r} both created and modified.")
    for name in sorted(modified - inputs):
        raise BadOutput(f"output.json calls {name!r} modified, but no input has that name.")
    origins = dict.fromkeys(inputs.intersection(names), "unchanged")
    return origins | dict.fromkeys(created, "created") | dict.fromkeys(modified, "modified")


def _subset(said: dict[str, Any], key: str, names: list[str]) -> frozenset[str]:
    """Return the names of an optional list, all of which must be among the files."""
    if key not in said:
        return frozenset()
    chosen = _names(said, key, FILES_LIMIT)
    for name in chosen:
        if name not in names:
            raise BadOutput(f"output.json names {name!r} in {key!r}, but not in 'files'.")
    return frozenset(chosen)


def _tags(said: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the tags of each file, none for each where none are given."""
    if "tags" not in said:
        return [{} for _ in range(count)]
    tags = said["tags"]
    if not isinstance(tags, list) or not all(isinstance(each, dict) for each in tags):
        raise BadOutput("output.json needs a list of objects as 'tags'.")
    if len(tags) != count:
        raise BadOutput(f"output.json has tags for {len(tags)} files, but names {count}.")
    return tags


def _metrics(said: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics, an object, or none."""
    metrics = said.get("metrics")
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        raise BadOutput("output.json needs an object as 'metrics'.")
    return metrics
