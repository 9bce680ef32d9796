"""The limits of an archive, and the error for archives that break a rule."""

from dataclasses import dataclass

CHUNK = 64 * 1024
"""Bytes read at a time."""

BLOCK = 512
"""Bytes of a tar block."""


class BadArchive(ValueError):
    """An archive, or a folder to be packed, that breaks a rule. The message is for its author."""


@dataclass(frozen=True)
class Limits:
    """The maximum contents of an archive. `ratio` is the number of unpacked bytes for each byte read."""

    files: int = 1000
    file_size: int = 64 * 1024 * 1024
    total_size: int = 256 * 1024 * 1024
    ratio: int = 100
    path_length: int = 240
    depth: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.file_size < 8**11:
            raise ValueError("A tar header cannot store sizes of 8 GiB or more.")

    @property
    def members(self) -> int:
        """The maximum number of entries of any kind: files, folders and extended headers."""
        return 4 * self.files


DEFAULT_LIMITS = Limits()
