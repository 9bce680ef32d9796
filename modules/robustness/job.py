"""The folder of one job: what was asked, in `input/`, and what came of it, in `output/`."""

import json
import shutil
from pathlib import Path
from typing import Any


class JobError(Exception):
    """Why the job cannot be done, in words for the person who started it."""


class Job:
    """One job: its function, options and input files, and the output files and metrics it gathers.

    Every output file is named once, as created, as modified or as kept; `write` then reports them all.
    """

    def __init__(self, folder: Path) -> None:
        self.inputs_folder, self.outputs_folder = folder / "input", folder / "output"
        asked = self._asked()
        self.function: str = asked["name"]
        self.options = {name: value for name, value in asked["options"].items() if value is not None}
        self.inputs: dict[str, dict[str, Any]] = dict(zip(asked["files"], asked["tags"], strict=True))
        self.metrics: dict[str, Any] = {}
        self._outputs: dict[str, dict[str, Any]] = {}
        self._created: list[str] = []
        self._modified: list[str] = []
        self.outputs_folder.mkdir(exist_ok=True)

    def _asked(self) -> dict[str, Any]:
        """What `input.json` says, checked for its shape."""
        try:
            asked: dict[str, Any] = json.loads((self.inputs_folder / "input.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise JobError(f"input/input.json cannot be read: {error}") from error
        kinds = {"name": str, "files": list, "options": dict, "tags": list}
        for key, kind in kinds.items():
            if not isinstance(asked, dict) or not isinstance(asked.get(key), kind):
                raise JobError(f"input/input.json has no {key!r} of type {kind.__name__}.")
        if len(asked["files"]) != len(asked["tags"]):
            raise JobError("input/input.json does not have one entry of tags for each file.")
        for name in asked["files"]:
            if not (self.inputs_folder / name).is_file():
                raise JobError(f"The input file {name!r} is missing.")
        return asked

    def input(self, name: str) -> Path:
        """Where the input file `name` lies."""
        return self.inputs_folder / name

    def create(self, name: str, **tags: Any) -> Path:
        """Announce a new output file, and return where to write it."""
        path = self._output(name, tags)
        self._created.append(name)
        return path

    def modify(self, name: str, **tags: Any) -> Path:
        """Announce a changed version of the input file `name`, and return where to write it."""
        path = self._output(name, tags)
        self._modified.append(name)
        return path

    def keep(self, name: str, **tags: Any) -> None:
        """Hand the input file `name` on, unchanged, to the task that comes next."""
        shutil.copyfile(self.input(name), self._output(name, tags))

    def _output(self, name: str, tags: dict[str, Any]) -> Path:
        if name in self._outputs:
            raise JobError(f"Two output files would be called {name!r}: give the input file another name.")
        self._outputs[name] = tags
        return self.outputs_folder / name

    def write(self) -> None:
        """Write `output.json`, the last thing a job does."""
        report = {
            "name": self.function,
            "files": list(self._outputs),
            "files_created": self._created,
            "files_modified": self._modified,
            "tags": list(self._outputs.values()),
            "metrics": self.metrics,
        }
        text = json.dumps(report, indent=2, allow_nan=False)
        (self.outputs_folder / "output.json").write_text(text + "\n", "utf-8")
