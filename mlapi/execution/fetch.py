"""The first phase of an attempt: downloading the module and the inputs into the workspace."""

from __future__ import annotations

import json
import os

from mlapi.execution.errors import Damaged, JobFailed
from mlapi.file_names import plain_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.bounds import Bounds
    from mlapi.execution.client import Client
    from mlapi.execution.contract import Attempt, Input, Module
    from mlapi.execution.workspace import Workspace

MANIFEST = "input.json"


def fetch(client: Client, bounds: Bounds, attempt: Attempt, workspace: Workspace) -> None:
    """Download everything an attempt needs. The bounds are checked, and heartbeats sent, after every chunk."""
    _fetch_module(client, attempt["module"], workspace)
    bounds.check()
    _list_inputs(client, attempt)
    for file in attempt["inputs"]:
        _fetch_input(client, file, workspace)
    _write_manifest(attempt, workspace)
    bounds.check()


def _fetch_module(client: Client, module: Module, workspace: Workspace) -> None:
    """Download and unpack the archive of the module."""
    # Imported here because they are slow. A runner that waits for its ticket has imported them already.
    from pathlib import Path

    from mlapi.archives.canonical import unpack
    from mlapi.archives.limits import BadArchive

    archive = os.path.join(workspace.path, "module.tar")
    try:
        client.download("/module", archive, module["size"], module["version"])
        with open(archive, "rb") as source:
            unpack(source, Path(workspace.module))
    except Damaged as error:
        raise JobFailed(f"Module {module['name']!r} was damaged in transfer.") from error
    except BadArchive as error:
        raise JobFailed(f"Module {module['name']!r} cannot be unpacked: {error}") from error
    os.unlink(archive)


def _list_inputs(client: Client, attempt: Attempt) -> None:
    """Complete the inputs of an attempt, whose document has only the first page of them."""
    following = attempt.get("more_inputs")
    while following is not None:
        page = client.inputs(following)
        attempt["inputs"] += page["items"]
        following = page["next"]


def _fetch_input(client: Client, file: Input, workspace: Workspace) -> None:
    """Download an input file."""
    name = file["name"]
    try:
        target = os.path.join(workspace.input, plain_name(name, reserved=MANIFEST))
    except ValueError as error:
        raise JobFailed(f"Invalid input name {name!r}. {error}") from error
    try:
        client.download(f"/inputs/{file['number']}", target, file["size"], file["sha256"])
    except Damaged as error:
        raise JobFailed(f"Input {name!r} was damaged in transfer.") from error


def _write_manifest(attempt: Attempt, workspace: Workspace) -> None:
    """Write input.json, in the format of MLsploit."""
    inputs = attempt["inputs"]
    document = {
        "name": attempt["function"],
        "num_files": len(inputs),
        "files": [file["name"] for file in inputs],
        "options": attempt["arguments"],
        "tags": [file["tags"] for file in inputs],
    }
    with open(os.path.join(workspace.input, MANIFEST), "x", encoding="utf-8") as out:
        json.dump(document, out)
