"""Every setting: its name, type, default and meaning, read once and refused at start-up when wrong.

A setting ``x`` is ``mlapi.x`` in the ini file or ``MLAPI_X`` in the environment, which wins.
"""

import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "mlapi."
SECRET_BYTES = 32
"""A key of HMAC-SHA-256 is at least as long as its digest (RFC 7518, 3.2)."""


class SettingsError(Exception):
    """The settings cannot be used; the message has one line for each that is wrong."""


def text(value: str) -> str:
    """Any text."""
    return value


def whole(value: str) -> int:
    """A whole number above zero."""
    number = int(value)
    if number < 1:
        raise ValueError("must be above zero")
    return number


def seconds(value: str) -> float:
    """A number of seconds above zero."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError("must be a number of seconds above zero")
    return number


def path(value: str) -> Path:
    """A path."""
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def path_or_none(value: str) -> Path | None:
    """A path, or nothing where it is empty."""
    return path(value) if value else None


def names(value: str) -> tuple[str, ...]:
    """Names, separated by commas or white space."""
    return tuple(value.replace(",", " ").split())


def url(value: str) -> str:
    """An http or https URL without a path."""
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


def flag(value: str) -> bool:
    """True or false."""
    try:
        return {"true": True, "false": False}[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def setting(read: Callable[[str], Any], default: str, meaning: str) -> Any:
    """A row of the table: how its text is read, its default as text, and what it means."""
    return field(metadata={"read": read, "default": default, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """The table of settings; `read` makes one from an ini file and the environment."""

    secret_key: str = setting(
        text,
        "",
        "Key that signs tokens, 32 bytes or more. Empty: kept in data_dir/secret_key, made at first use.",
    )
    data_dir: Path = setting(path, "var", "Folder of everything the service keeps, unless said otherwise below.")
    database_url: str = setting(
        text, "", "SQLAlchemy URL: sqlite:///PATH or postgresql+psycopg://…. Empty: data_dir/mlapi.db."
    )
    media_dir: Path = setting(path_or_none, "", "Folder of the files' contents. Empty: data_dir/files.")
    scratch_dir: Path = setting(
        path_or_none, "", "Folder in which jobs run and uploads are unpacked. Empty: data_dir/scratch."
    )
    allowed_hosts: tuple[str, ...] = setting(
        names,
        "localhost 127.0.0.1 [::1]",
        "Host names that requests may ask for, without port; * allows any.",
    )
    url: str = setting(url, "http://127.0.0.1:6543", "Address at which runners reach this service.")
    access_token_lifetime: float = setting(seconds, "3600", "Seconds for which an access token is good.")
    refresh_token_lifetime: float = setting(seconds, "86400", "Seconds for which a refresh token is good.")
    password_length: int = setting(whole, "15", "Characters that a password must have at least.")
    password_memory: int = setting(whole, "65536", "KiB of memory for one argon2id hash of a password.")
    password_rounds: int = setting(whole, "3", "Passes of argon2id over that memory.")
    body_limit: int = setting(whole, "1048576", "Bytes of a JSON body at most.")
    upload_limit: int = setting(whole, "4294967296", "Bytes of an uploaded file at most.")
    module_limit: int = setting(whole, "67108864", "Bytes of an uploaded module archive at most.")
    log_limit: int = setting(whole, "10485760", "Bytes of a job's log at most; what goes beyond is dropped.")
    sweep_grace: float = setting(seconds, "3600", "Seconds for which contents that no file refers to are kept.")
    job_timeout: float = setting(seconds, "3600", "Seconds a job may run, where its task says nothing.")
    job_timeout_limit: float = setting(seconds, "604800", "Seconds a task may ask for at most.")
    job_attempts: int = setting(whole, "3", "Attempts at a job whose workers are lost, before it fails.")
    job_lease: float = setting(
        seconds, "60", "Seconds without a heartbeat after which a worker counts as lost; 15 or more for SQLite."
    )
    job_heartbeat: float = setting(seconds, "1", "Seconds between the heartbeats of a running job.")
    scheduler: bool = setting(flag, "false", "Whether pserve starts a scheduler of its own, which ends with it.")
    scheduler_interval: float = setting(seconds, "0.05", "Seconds between the scheduler's looks for queued jobs.")
    slots: int = setting(whole, "2", "Jobs that the local executor runs at once.")
    worker: str = setting(text, socket.gethostname(), "Name under which this machine claims jobs.")
    module_python: str = setting(text, sys.executable, "Python interpreter that runs the modules' code.")

    @classmethod
    def read(cls, ini: Mapping[str, str], environ: Mapping[str, str] | None = None) -> "Settings":
        """Make the settings from what an ini file says and `environ` (default: the process's) overrides.

        Raises `SettingsError` that names every unknown and every wrong setting.
        """
        environ = os.environ if environ is None else environ
        known = {each.name: each for each in fields(cls)}
        given = {key.removeprefix(PREFIX): value for key, value in ini.items() if key.startswith(PREFIX)}
        errors = [f"{PREFIX}{name}: there is no such setting" for name in sorted(given.keys() - known.keys())]
        values = {}
        for name, row in known.items():
            told = environ.get(f"MLAPI_{name.upper()}", given.get(name, row.metadata["default"]))
            try:
                values[name] = row.metadata["read"](told)
            except (ValueError, OverflowError) as error:
                errors.append(f"{PREFIX}{name}: {told!r} {error}")
        if errors:
            raise SettingsError("\n".join(errors))
        return cls(**_complete(values))


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the settings whose defaults lie in the data folder, and hold those that depend on others."""
    data = values["data_dir"] = values["data_dir"].absolute()
    for name, folder in (("media_dir", "files"), ("scratch_dir", "scratch")):
        values[name] = data / folder if values[name] is None else values[name].absolute()
    values["database_url"] = values["database_url"] or f"sqlite:///{data / 'mlapi.db'}"
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        values["secret_key"] = values["secret_key"] or _kept_secret(data / "secret_key")
    except OSError as error:
        raise SettingsError(f"{PREFIX}data_dir: {error}") from None
    errors = []
    if len(values["secret_key"].encode()) < SECRET_BYTES or len(set(values["secret_key"])) < 8:
        errors.append(f"{PREFIX}secret_key: must be {SECRET_BYTES} random bytes or more")
    if values["job_lease"] < 3 * values["job_heartbeat"]:
        errors.append(f"{PREFIX}job_lease: must be three times job_heartbeat or more")
    if values["job_timeout"] > values["job_timeout_limit"]:
        errors.append(f"{PREFIX}job_timeout: must not be above job_timeout_limit")
    if errors:
        raise SettingsError("\n".join(errors))
    return values


def _kept_secret(place: Path) -> str:
    """Return the key kept at `place`, made there by whichever process comes first."""
    if not place.exists():
        fresh = place.with_name(f"{place.name}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(2 * SECRET_BYTES))
        try:
            os.link(fresh, place)  # Unlike a rename, this never replaces a key that others already use.
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return place.read_text(encoding="ascii").strip()


def rows() -> list[tuple[str, str, str]]:
    """Name, default and meaning of each setting, for the documentation."""

    def default(row: Field[Any]) -> str:
        machine = {"worker": "the host's name", "module_python": "the service's own"}
        return machine.get(row.name) or row.metadata["default"]

    return [(row.name, default(row), row.metadata["meaning"]) for row in fields(Settings)]
