"""Settings: values from an ini file and the environment; all errors are reported together."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mlapi.settings import Settings, SettingsError, rows

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A function that reads settings with a temporary data folder."""

    def read(environ: dict[str, str] | None = None, /, **ini: str) -> Settings:
        values = {"data_dir": str(tmp_path / "data"), **ini}
        return Settings.read({f"mlapi.{name}": value for name, value in values.items()}, environ or {})

    return read


def test_by_default_all_data_is_in_the_data_folder(read: Any, tmp_path: Path) -> None:
    settings, data = read(), tmp_path / "data"
    assert settings.database_url == f"sqlite:///{data}/mlapi.db"
    assert (settings.media_dir, settings.scratch_dir) == (data / "files", data / "scratch")
    assert data.stat().st_mode & 0o777 == 0o700


def test_settings_are_parsed_by_their_type(read: Any, tmp_path: Path) -> None:
    settings = read(
        media_dir=str(tmp_path / "blobs"),
        allowed_hosts="a.example, b.example  c.example",
        scheduler=" TRUE ",
        job_lease="2.5",
        job_heartbeat="0.5",
        slots="7",
        url="https://mlapi.example/",
    )
    assert settings.media_dir == tmp_path / "blobs"
    assert settings.allowed_hosts == ("a.example", "b.example", "c.example")
    assert (settings.scheduler, settings.job_lease, settings.slots) == (True, 2.5, 7)
    assert settings.url == "https://mlapi.example"


def test_a_worker_serves_all_queues_unless_it_names_some(read: Any) -> None:
    assert (read().queues, read().gpus) == (("*",), 0)
    assert (read(queues="gpu, default").queues, read(gpus="4").gpus) == (("gpu", "default"), 4)
    for name, value in (("queues", " , "), ("gpus", "-1"), ("gpus", "one")):
        with pytest.raises(SettingsError, match=name):
            read(**{name: value})


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("127.0.0.1", "6543", "http://127.0.0.1:6543"),
        ("127.0.0.1", "7000", "http://127.0.0.1:7000"),
        ("mlapi.example.org", "80", "http://mlapi.example.org:80"),
        ("0.0.0.0", "6543", "http://127.0.0.1:6543"),
        ("::", "6543", "http://[::1]:6543"),
        ("[::]", "6543", "http://[::1]:6543"),
        ("fd00::7", "6543", "http://[fd00::7]:6543"),
        ("[::1]", "6543", "http://[::1]:6543"),
    ],
)
def test_the_url_is_derived_from_host_and_port_unless_it_is_set(read: Any, host: str, port: str, url: str) -> None:
    assert read(host=host, port=port).url == url
    assert read({"MLAPI_HOST": host, "MLAPI_PORT": port}, host="localhost", port="1").url == url
    assert read(host=host, port=port, url="https://mlapi.example").url == "https://mlapi.example"


def test_a_relative_folder_is_below_the_working_directory(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read(data_dir="here", scratch_dir="there")
    assert (settings.data_dir, settings.scratch_dir) == (tmp_path / "here", tmp_path / "there")


def test_the_environment_takes_precedence_and_other_variables_are_ignored(read: Any) -> None:
    settings = read({"MLAPI_SLOTS": "5", "MLAPI_NO_SUCH": "1", "SLOTS": "9"}, slots="3", job_attempts="4")
    assert (settings.slots, settings.job_attempts) == (5, 4)


def test_other_settings_in_the_ini_file_are_ignored(tmp_path: Path) -> None:
    values = {"mlapi.data_dir": str(tmp_path), "pyramid.includes": "x", "sqlalchemy.url": "y", "here": "z"}
    assert Settings.read(values, {}).data_dir == tmp_path


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("slots", "0", "must be above zero"),
        ("slots", "-1", "must be above zero"),
        ("slots", "2.5", "invalid literal"),
        ("slots", "", "invalid literal"),
        ("job_lease", "0", "must be a number of seconds above zero"),
        ("job_lease", "nan", "must be a number of seconds above zero"),
        ("job_lease", "inf", "must be a number of seconds above zero"),
        ("job_lease", "a minute", "could not convert"),
        ("scheduler", "yes", "must be true or false"),
        ("url", "127.0.0.1:6543", "must start with http:// or https://"),
        ("media_dir", "~nobody-of-this-name/x", "home directory"),
        ("media_dir", "s3://bucket", "must be a path on this machine, not a URL"),
        ("port", "0", "must be between 1 and 65535"),
        ("port", "65536", "must be between 1 and 65535"),
        ("port", "http", "invalid literal"),
        ("host", "", "must be a host name or an IP address"),
        ("host", "*", "must be a host name or an IP address"),
        ("host", "http://localhost", "must be a host name or an IP address"),
        ("database_url", "sqlite://", "must name a file"),
        ("database_url", "sqlite:///", "must name a file"),
        ("database_url", "sqlite+pysqlite:///:memory:?cache=shared", "must name a file"),
    ],
)
def test_an_invalid_setting_is_reported_with_its_value(
    read: Any, tmp_path: Path, name: str, value: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"mlapi.{name}: {value!r} ") + ".*" + re.escape(words)):
        read(**{name: value})
    with pytest.raises(SettingsError, match=f"mlapi.{name}: "):
        read({f"MLAPI_{name.upper()}": value})
    assert not (tmp_path / "data").exists()


def test_all_errors_of_settings_are_reported_together(read: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        read(slots="x", job_lease="-1", sekret_key="?", scheduler="maybe")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "mlapi.sekret_key",
        "mlapi.job_lease",
        "mlapi.scheduler",
        "mlapi.slots",
    ]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"secret_key": KEY[:31]}, "secret_key"),
        ({"secret_key": "ab" * 32}, "secret_key"),
        ({"job_lease": "2", "job_heartbeat": "1"}, "job_lease"),
        ({"job_timeout": "100", "job_timeout_limit": "99"}, "job_timeout"),
    ],
)
def test_unsafe_combinations_are_rejected(read: Any, values: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=f"^mlapi.{named}: must [^\n]+$"):
        read(**values)


def test_an_impossible_data_folder_is_an_invalid_setting(read: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"mlapi\.data_dir: "):
        read(data_dir=str(tmp_path / "file" / "data"))


def test_a_configured_secret_is_used_and_not_stored(read: Any, tmp_path: Path) -> None:
    assert read(secret_key=KEY).secret_key == KEY
    assert list((tmp_path / "data").iterdir()) == []


def test_a_secret_is_generated_once_and_private(read: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = {each.result().secret_key for each in [threads.submit(read) for _ in range(8)]}
    (kept,) = (tmp_path / "data").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert keys == {kept.read_text()}
    assert len(keys.pop()) >= 64


def test_two_services_have_different_secrets(read: Any, tmp_path: Path) -> None:
    assert read().secret_key != read(data_dir=str(tmp_path / "other")).secret_key


def test_every_setting_has_a_meaning_and_a_valid_default(read: Any) -> None:
    assert [name for name, _, _ in rows()] == [each.name for each in fields(Settings)]
    assert all(meaning.endswith(".") for _, _, meaning in rows())
    read()
