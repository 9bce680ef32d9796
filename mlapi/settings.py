"""Settings: names, types, defaults and descriptions. They are read once and validated at the start.

A setting ``x`` is ``mlapi.x`` in the ini file or ``MLAPI_X`` in the environment, which takes precedence.
"""

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "mlapi."
SECRET_BYTES = 32
"""Minimum length of a key of HMAC-SHA-256: that of the digest (RFC 7518, 3.2)."""

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses are compared, not bound
"""Addresses that stand for all interfaces, and the loopback address at which this machine reaches them."""


class SettingsError(Exception):
    """The settings are not valid; the message has one line for every error."""


def text(value: str) -> str:
    """Any text."""
    return value


def whole(value: str) -> int:
    """A positive integer."""
    number = int(value)
    if number < 1:
        raise ValueError("must be above zero")
    return number


def count(value: str) -> int:
    """An integer that is not negative."""
    number = int(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number


def port_number(value: str) -> int:
    """A TCP port."""
    number = int(value)
    if not 1 <= number <= 65535:
        raise ValueError("must be between 1 and 65535")
    return number


def hostname(value: str) -> str:
    """A host name or an IP address; an IPv6 address may be in brackets."""
    host = value.strip().removeprefix("[").removesuffix("]")
    if not host or "/" in host or " " in host or "*" in host:
        raise ValueError("must be a host name or an IP address")
    return host


def seconds(value: str) -> float:
    """A positive number of seconds."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError("must be a number of seconds above zero")
    return number


def path(value: str) -> Path:
    """A path."""
    if "://" in value:
        raise ValueError("must be a path on this machine, not a URL")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def path_or_none(value: str) -> Path | None:
    """A path, or None for an empty text."""
    return path(value) if value else None


def names(value: str) -> tuple[str, ...]:
    """Names separated by commas or whitespace."""
    return tuple(value.replace(",", " ").split())


def some_names(value: str) -> tuple[str, ...]:
    """One or more names separated by commas or whitespace."""
    found = names(value)
    if not found:
        raise ValueError("must have at least one name")
    return found


def url_or_empty(value: str) -> str:
    """An http or https URL without a path, or an empty text."""
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


def database(value: str) -> str:
    """The URL of a database, or an empty text. All processes share it, so that one of SQLite is in a file."""
    if value.startswith("sqlite") and value.partition(":///")[2].partition("?")[0] in ("", ":memory:"):
        raise ValueError("must name a file: sqlite:///PATH")
    return value


def flag(value: str) -> bool:
    """True or false."""
    try:
        return {"true": True, "false": False}[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def setting(read: Callable[[str], object], default: str, meaning: str) -> Any:
    """A row of the table: the function that parses the text, the default as text, and the description."""
    return field(metadata={"read": read, "default": default, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """The table of settings; `read` creates an instance from an ini file and the environment."""

    secret_key: str = setting(
        text,
        "",
        "Key that signs tokens, at least 32 bytes. Empty: data_dir/secret_key, generated at the first start.",
    )
    data_dir: Path = setting(path, "var", "Folder of all persistent data, except where the settings below differ.")
    database_url: str = setting(
        database, "", "SQLAlchemy URL: sqlite:///PATH or postgresql+psycopg://…. Empty: data_dir/mlapi.db."
    )
    database_timeout: float = setting(
        seconds,
        "10",
        "Time limit of a statement in PostgreSQL, and of waiting for the lock in SQLite, in seconds; beyond it, the "
        "response is 503.",
    )
    media_dir: Path = setting(path_or_none, "", "Folder of the contents of files. Empty: data_dir/files.")
    scratch_dir: Path = setting(
        path_or_none, "", "Folder for running jobs and for unpacking uploads. Empty: data_dir/scratch."
    )
    host: str = setting(
        hostname, "127.0.0.1", "Address on which the service listens; 0.0.0.0 or :: for all interfaces."
    )
    port: int = setting(port_number, "6543", "TCP port on which the service listens.")
    threads: int = setting(
        whole,
        "4",
        "Number of threads of the service that answer requests; all but two of them may do slow work, such as hashing "
        "passwords.",
    )
    drain_timeout: float = setting(
        seconds, "30", "Seconds for which the service completes accepted requests after it was asked to end."
    )
    url: str = setting(
        url_or_empty,
        "",
        "Address at which schedulers and runners reach the service. Empty: host and port, on loopback if host is "
        "0.0.0.0 or ::.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        names,
        "localhost 127.0.0.1 [::1]",
        "Allowed values of the Host header, without port; * allows any.",
    )
    access_token_lifetime: float = setting(seconds, "3600", "Lifetime of an access token in seconds.")
    refresh_token_lifetime: float = setting(seconds, "86400", "Lifetime of a refresh token in seconds.")
    password_length: int = setting(whole, "15", "Minimum length of a password in characters.")
    password_memory: int = setting(whole, "65536", "Memory for one argon2id hash of a password in KiB.")
    password_rounds: int = setting(whole, "3", "Number of argon2id iterations.")
    body_limit: int = setting(whole, "1048576", "Maximum size of a JSON body in bytes.")
    upload_limit: int = setting(whole, "4294967296", "Maximum size of an uploaded file in bytes.")
    module_limit: int = setting(whole, "67108864", "Maximum size of an uploaded module archive in bytes.")
    tags_limit: int = setting(whole, "65536", "Maximum size of the tags of a file as JSON in bytes.")
    arguments_limit: int = setting(whole, "65536", "Maximum size of the arguments of a task as JSON in bytes.")
    metrics_limit: int = setting(whole, "65536", "Maximum size of the metrics of a job as JSON in bytes.")
    points_limit: int = setting(
        whole, "100000", "Maximum number of points of metrics that an attempt records; the rest is discarded."
    )
    page_limit: int = setting(
        whole, "1048576", "Size of a page of a list in bytes after which it ends, with a link to the next page."
    )
    list_timeout: float = setting(
        seconds, "5", "Seconds after which a list ends whose combination of filters no index serves."
    )
    log_limit: int = setting(
        whole, "67108864", "Maximum size of a job's log in bytes; its last line says how much was discarded beyond it."
    )
    log_piece_limit: int = setting(whole, "1048576", "Maximum size in bytes of a piece of a log that a runner sends.")
    report_limit: int = setting(
        whole, "16777216", "Maximum size in bytes of a runner's report, with metrics and the tags of all outputs."
    )
    sweep_grace: float = setting(seconds, "3600", "Seconds after which unreferenced contents are deleted.")
    job_timeout: float = setting(
        seconds,
        "86400",
        "Time limit in seconds of a job's download, function and delivery each, unless its run, task or queue has one.",
    )
    job_timeout_limit: float = setting(seconds, "604800", "Maximum time limit of a job in seconds.")
    job_attempts: int = setting(
        whole,
        "3",
        "Number of failures after which a job fails, unless its run, task or queue says otherwise: attempts whose "
        "worker is lost while it runs the job, and failures that the job declares as transient.",
    )
    retry_base: float = setting(
        seconds,
        "10",
        "Seconds between the first failure that a job declares as transient and the next attempt; each further failure "
        "doubles them.",
    )
    retry_cap: float = setting(
        seconds, "600", "Maximum number of seconds between a transient failure and the next attempt."
    )
    delivery_timeout: float = setting(
        seconds,
        "300",
        "Seconds for which a runner repeats a request that the service refuses, such as an output for a full disk; "
        "then it hands the job back.",
    )
    job_lease: float = setting(
        seconds, "60", "Seconds without a heartbeat after which a worker is lost; at least 15 for SQLite."
    )
    job_heartbeat: float = setting(seconds, "1", "Interval between the heartbeats of a running job in seconds.")
    migrate: bool = setting(
        flag, "false", "Whether the commands migrate the database to the newest revision, for development."
    )
    scheduler: bool = setting(flag, "false", "Whether pserve starts a scheduler, which ends with it.")
    scheduler_interval: float = setting(
        seconds,
        "0.05",
        "Interval at which the scheduler looks at the queue in seconds. While nothing happens, it grows to 1 s if the "
        "service is on this machine (url) with the same data_dir, because then the service wakes the scheduler.",
    )
    slots: int = setting(whole, "2", "Number of jobs that this machine runs at the same time.")
    queues: tuple[str, ...] = setting(
        some_names, "*", "Names of the queues whose jobs this machine runs, separated by spaces; * for all."
    )
    gpus: int = setting(count, "0", "Number of GPUs of this machine that jobs may need.")
    worker: str = setting(text, socket.gethostname(), "Name of this machine as a worker.")
    module_python: str = setting(text, sys.executable, "Python interpreter that runs modules.")

    @classmethod
    def read(cls, ini: Mapping[str, str], environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings of an ini file, overridden by `environ` (default: the environment of the process).

        Raises `SettingsError` that lists all unknown settings and all invalid values.
        """
        environ = os.environ if environ is None else environ
        known = {row.name: row for row in fields(cls)}
        texts = {key.removeprefix(PREFIX): value for key, value in ini.items() if key.startswith(PREFIX)}
        errors = [f"{PREFIX}{name}: unknown setting" for name in sorted(texts.keys() - known.keys())]
        values = {}
        for name, row in known.items():
            value = environ.get(f"MLAPI_{name.upper()}", texts.get(name, row.metadata["default"]))
            try:
                values[name] = row.metadata["read"](value)
            except (ValueError, OverflowError) as error:
                errors.append(f"{PREFIX}{name}: {value!r} {error}")
        if errors:
            raise SettingsError("\n".join(errors))
        return cls(**_complete(values))


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the defaults that depend on other settings, and check the combinations."""
    data = values["data_dir"] = values["data_dir"].absolute()
    for name, folder in (("media_dir", "files"), ("scratch_dir", "scratch")):
        values[name] = data / folder if values[name] is None else values[name].absolute()
    values["database_url"] = values["database_url"] or f"sqlite:///{data / 'mlapi.db'}"
    values["url"] = values["url"] or _url(values["host"], values["port"])
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        values["secret_key"] = values["secret_key"] or _kept_secret(data / "secret_key")
    except OSError as error:
        raise SettingsError(f"{PREFIX}data_dir: {error}") from None
    errors = []
    if len(values["secret_key"].encode()) < SECRET_BYTES or len(set(values["secret_key"])) < 8:
        errors.append(f"{PREFIX}secret_key: must be at least {SECRET_BYTES} random bytes")
    if values["job_lease"] < 3 * values["job_heartbeat"]:
        errors.append(f"{PREFIX}job_lease: must be at least three times job_heartbeat")
    if values["job_timeout"] > values["job_timeout_limit"]:
        errors.append(f"{PREFIX}job_timeout: must not be above job_timeout_limit")
    if errors:
        raise SettingsError("\n".join(errors))
    return values


def _url(host: str, port: int) -> str:
    """The address at which this machine reaches a server on this host and port."""
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _kept_secret(place: Path) -> str:
    """The key in the file `place`, generated by the first process that needs it."""
    if not place.exists():
        fresh = place.with_name(f"{place.name}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(2 * SECRET_BYTES))
        try:
            os.link(fresh, place)  # Unlike a rename, this never replaces an existing key.
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return place.read_text(encoding="ascii").strip()


def rows() -> list[tuple[str, str, str]]:
    """Name, default and description of all settings, for the documentation."""

    def default(row: Field[object]) -> str:
        machine = {"worker": "the host name", "module_python": "that of the service"}
        return machine.get(row.name) or row.metadata["default"]

    return [(row.name, default(row), row.metadata["meaning"]) for row in fields(Settings)]
