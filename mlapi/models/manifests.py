"""The manifest of a module version, validated: what the module is, what it runs, and its functions."""

from dataclasses import dataclass

from mlapi.models.options import Option


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a module: its options, and the files it reads and writes."""

    name: str
    doctxt: str
    options: tuple[Option, ...]
    creates_new_files: bool
    modifies_input_files: bool
    expected_filetype: str
    optional_filetypes: tuple[str, ...]
    output_tags: tuple[dict[str, str], ...]
    min_files: int
    max_files: int | None
    output_files: tuple[str, ...]
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a module, its command and its functions."""

    display_name: str
    tagline: str
    doctxt: str
    icon_url: str | None
    command: tuple[str, ...]
    functions: tuple[Function, ...]
