"""The start of every command by an operator who has forgotten something: one sentence that names what to do."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import PASSWORD, admin, command, write_ini

PROGRAMS = {
    "mlapi-admin": ["-c", "{ini}", "check"],
    "mlapi-scheduler": ["{ini}"],
    "pserve": ["{ini}"],
    "pshell": ["{ini}"],
}


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """An ini file with an empty database."""
    return write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db")


def start(program: str, ini: Path) -> subprocess.CompletedProcess[str]:
    """Start a program that ends with an error."""
    words = [command(program), *(word.format(ini=ini) for word in PROGRAMS[program])]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_database_that_is_not_migrated_is_refused(program: str, ini: Path) -> None:
    done = start(program, ini)
    assert done.returncode == (1 if program.startswith("ps") else 2)
    message = done.stderr.splitlines()[-1]
    assert message.startswith("The database has no tables. To create them, run: ")
    assert message.endswith(f"alembic -c {ini} upgrade head")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_setting_that_is_not_valid_is_refused(program: str, tmp_path: Path) -> None:
    done = start(program, write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", slots="many"))
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("mlapi.slots: 'many' ")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_folder_that_cannot_be_used_is_named(program: str, tmp_path: Path) -> None:
    url, media = f"sqlite:///{tmp_path}/test.db", tmp_path / "testing.ini" / "files"
    done = start(program, write_ini(tmp_path, url, migrate="true", media_dir=media))
    assert done.returncode != 0
    assert str(media.parent) in done.stderr.splitlines()[-1]


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = start("pserve", write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", port, migrate="true"))
    assert done.returncode == 1
    message = f"mlapi.host and mlapi.port: 127.0.0.1:{port} is not usable: Address already in use."
    assert done.stderr.splitlines()[-1] == message


def test_an_error_of_alembic_has_no_traceback(tmp_path: Path) -> None:
    ini = write_ini(tmp_path, "postgresql+psycopg://ada@127.0.0.1:1/x")
    words = [command("alembic"), "-c", str(ini), "upgrade", "head"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "Connection refused" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_development_migrates_by_itself(tmp_path: Path) -> None:
    ini = write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", migrate="true")
    assert admin(ini, "check").stderr.endswith("No violations.\n")


def test_a_command_migrates_the_database(ini: Path) -> None:
    assert admin(ini, "migrate").stdout == "The database is at the newest revision.\n"
    assert admin(ini, "check").stderr.endswith("No violations.\n")


def test_a_password_without_a_terminal_is_read_from_a_file(ini: Path, tmp_path: Path) -> None:
    admin(ini, "migrate")
    words = ("createuser", "ada", "--role", "admin")
    done = admin(ini, *words, check=False, stdin=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == 1
    [message] = done.stderr.splitlines()
    assert message.startswith("No terminal to ask for the password.")
    assert message.endswith(f"mlapi-admin -c {ini} createuser ada --role admin --password-file FILE")
    (tmp_path / "password").write_text(PASSWORD)
    assert admin(ini, *words, "--password-file", str(tmp_path / "password")).stdout == "Created admin ada.\n"


def test_a_command_without_an_ini_file_is_refused() -> None:
    done = subprocess.run([command("mlapi-admin"), "check"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "-c INI" in done.stderr.splitlines()[-1]
