"""A module that writes greetings, with the standard library only."""

import json
import os
from pathlib import Path
from typing import Any


def say_hello(who: str, greeting: str = "Hello", excited: bool = False) -> str:
    """Return the greeting of `who`."""
    return f"{greeting}, {who}{'!' if excited else '.'}\n"


def main() -> None:
    """Read `input/input.json`, write one greeting per input file, and write `output/output.json`."""
    folder = Path(os.environ.get("MLAPI_JOB_DIR", "/mnt"))
    job: dict[str, Any] = json.loads((folder / "input" / "input.json").read_text("utf-8"))
    if job["name"] != "say_hello":
        raise SystemExit(f"There is no function {job['name']!r}, only say_hello.")
    options = {name: value for name, value in job["options"].items() if value is not None}
    created = []
    for name in job["files"]:
        who = (folder / "input" / name).read_text("utf-8", errors="replace").strip() or "World"
        (folder / "output" / f"hello_{name}").write_text(say_hello(who, **options), "utf-8")
        created.append(f"hello_{name}")
        print(f"Greeted {name}.", flush=True)
    report = {
        "name": job["name"],
        "files": created,
        "files_created": created,
        "files_modified": [],
        "tags": [{"language": "en"} for _ in created],
    }
    (folder / "output" / "output.json").write_text(json.dumps(report), "utf-8")


if __name__ == "__main__":
    main()
