"""The output of a function: output.json and the files it names. None of it is trusted."""

from __future__ import annotations

import os
import stat

from mlapi import strict_json
from mlapi.file_names import plain_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

MANIFEST = "output.json"
SERIES = "metrics.jsonl"
"""The file to which a function appends metrics; it is no output."""

MANIFEST_LIMIT = 4 * 2**20
"""The maximum size of output.json in bytes."""

FILES_LIMIT = 1000
"""The maximum number of output files of a job."""


class BadOutput(Exception):
    """Output that breaks a rule. The message is for the author of the module."""


class Output:
    """One output file: its name, tags and origin, and the identity of the file on disk."""

    __slots__ = ("identity", "name", "origin", "size", "tags")

    def __init__(self, name: str, tags: dict[str, object], origin: str, status: os.stat_result) -> None:
        self.name, self.tags, self.origin = name, tags, origin
        self.identity = (status.st_dev, status.st_ino)
        self.size = status.st_size


class Outputs:
    """The output of a function: its files and metrics, and the names of the files that are ignored."""

    __slots__ = ("files", "folder", "ignored", "metrics")

    def __init__(self, folder: str, files: list[Output], metrics: dict[str, object], ignored: list[str]) -> None:
        self.folder, self.files, self.metrics, self.ignored = folder, files, metrics, ignored

    def open(self, output: Output) -> BinaryIO:
        """Open an output file, or raise `BadOutput` if it is no longer the same file."""
        with _Folder(self.folder) as folder:
            descriptor = folder.open(output.name)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != output.identity or status.st_size != output.size:
            os.close(descriptor)
            raise BadOutput(f"The output {output.name!r} changed while it was read.")
        return os.fdopen(descriptor, "rb", buffering=0)


class _Folder:
    """The open output folder. A link put in its place later has no effect."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise BadOutput("The function removed its output folder.") from error

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def open(self, name: str) -> int:
        """Open a regular file of the folder. Links are not followed, and a pipe does not block."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except FileNotFoundError as error:
            if name == MANIFEST:
                raise BadOutput("The function left no output.json.") from error
            raise BadOutput(f"output.json names {name!r}, but the file is not in the output folder.") from error
        except OSError as error:
            # A link is ELOOP and a socket ENXIO. A folder can be opened, and fails the next check.
            raise BadOutput(f"{name!r} in the output folder is not a readable file.") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BadOutput(f"{name!r} in the output folder is not a regular file.")
        return descriptor

    def stat(self, name: str) -> os.stat_result:
        """Return the status of a regular file of the folder."""
        descriptor = self.open(name)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)


def open_output(folder: str | os.PathLike[str], name: str) -> BinaryIO:
    """Open a regular file of an output folder, or raise `BadOutput`."""
    with _Folder(folder) as opened:
        return os.fdopen(opened.open(name), "rb", buffering=0)


def read_outputs(folder: str | os.PathLike[str], inputs: Iterable[str]) -> Outputs:
    """Read output.json in `folder` and find the files it names. `inputs` are the names of the job's inputs."""
    with _Folder(folder) as opened:
        document = _parse(_manifest(opened))
        names = _names(document, "files")
        origins = _origins(document, names, frozenset(inputs))
        files = [
            Output(name, tags, origins[name], opened.stat(name))
            for name, tags in zip(names, _tags(document, len(names)), strict=True)
            if name in origins
        ]
    ignored = [name for name in names if name not in origins]
    return Outputs(os.fspath(folder), files, _metrics(document), ignored)


def _manifest(folder: _Folder) -> bytes:
    """Return the content of output.json, up to its size limit."""
    with os.fdopen(folder.open(MANIFEST), "rb") as manifest:
        data = manifest.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise BadOutput(f"output.json is larger than {MANIFEST_LIMIT // 2**20} MiB.")
    return data


def _parse(data: bytes) -> dict[str, object]:
    """Return the JSON object in `data`."""
    try:
        document = strict_json.loads(data, allow_bom=True)
    except strict_json.NotJson as error:
        raise BadOutput(f"output.json is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise BadOutput("output.json must be a JSON object.")
    return document


def _names(document: dict[str, object], key: str) -> list[str]:
    """Return a list of unique file names."""
    names = document.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadOutput(f"{key!r} in output.json must be a list of file names.")
    if len(names) > FILES_LIMIT:
        raise BadOutput(f"{key!r} in output.json has {len(names)} files. The limit is {FILES_LIMIT}.")
    unique = set()
    for name in names:
        try:
            unique.add(plain_name(name, reserved=SERIES if name == SERIES else MANIFEST))
        except ValueError as error:
            raise BadOutput(f"Invalid file name {name[:80]!r} in output.json. {error}") from error
    if len(unique) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise BadOutput(f"Duplicate file name {duplicate!r} in {key!r} of output.json.")
    return names


def _origins(document: dict[str, object], names: list[str], inputs: frozenset[str]) -> dict[str, str]:
    """Return the origins of files: "created", "modified" or "unchanged". Other files have no entry."""
    created, modified = (_subset(document, key, names) for key in ("files_created", "files_modified"))
    for name in sorted(created & modified):
        raise BadOutput(f"output.json has {name!r} both in 'files_created' and in 'files_modified'.")
    for name in sorted(modified - inputs):
        raise BadOutput(f"output.json has {name!r} in 'files_modified', but no input has that name.")
    origins = dict.fromkeys(inputs.intersection(names), "unchanged")
    return origins | dict.fromkeys(created, "created") | dict.fromkeys(modified, "modified")


def _subset(document: dict[str, object], key: str, names: list[str]) -> frozenset[str]:
    """Return the file names of an optional list, all of which must be in 'files'."""
    if key not in document:
        return frozenset()
    subset = frozenset(_names(document, key))
    for name in sorted(subset.difference(names)):
        raise BadOutput(f"output.json has {name!r} in {key!r}, but not in 'files'.")
    return subset


def _tags(document: dict[str, object], count: int) -> list[dict[str, object]]:
    """Return the tags of the files, which are empty by default."""
    if "tags" not in document:
        return [{} for _ in range(count)]
    tags = document["tags"]
    if not isinstance(tags, list) or not all(isinstance(item, dict) for item in tags):
        raise BadOutput("'tags' in output.json must be a list of objects.")
    if len(tags) != count:
        raise BadOutput(f"output.json has tags for {len(tags)} files, but lists {count} files.")
    return tags


def _metrics(document: dict[str, object]) -> dict[str, object]:
    """Return the metrics, which are empty by default."""
    metrics = document.get("metrics")
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        raise BadOutput("'metrics' in output.json must be an object.")
    return metrics
