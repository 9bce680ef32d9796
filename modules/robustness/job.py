"""The folder of a job: the request in `input/`, and the results in `output/`."""

import json
import shutil
from pathlib import Path
from typing import Any


class JobError(Exception):
    """The job cannot be executed; the message is for the user."""


class Job:
    """A job: its function, options and input files, its output files and its metrics.

    Output files are added as created, modified or kept; `write` reports all of them.
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
        """The content of `input.json`, validated."""
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
        """The path of an input file."""
        return self.inputs_folder / name

    def create(self, name: str, **tags: Any) -> Path:
        """Add a new output file; returns its path."""
        path = self._output(name, tags)
        self._created.append(name)
        return path

    def modify(self, name: str, **tags: Any) -> Path:
        """Add a modified version of an input file; returns its path."""
        path = self._output(name, tags)
        self._modified.append(name)
        return path

    def keep(self, name: str, **tags: Any) -> None:
        """Pass an input file on to the next task, unchanged."""
        shutil.copyfile(self.input(name), self._output(name, tags))

    def _output(self, name: str, tags: dict[str, Any]) -> Path:
        if name in self._outputs:
            raise JobError(f"Two output files have the name {name!r}: give the input file another name.")
        self._outputs[name] = tags
        return self.outputs_folder / name

    def write(self) -> None:
        """Write `output.json`, at the end of the job."""
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
