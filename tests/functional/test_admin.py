"""The commands of operators: mlapi-admin, mlapi-scheduler and alembic, with their exit statuses."""

import base64
import json
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from webtest import TestApp

from mlapi.cli.admin import parser
from mlapi.models import Job, Module, User, workers
from tests.support import PASSWORD, ROOT, Client, admin, command, new_database, pipeline_of, write_ini

HELLOWORLD = ROOT / "modules" / "helloworld"


@pytest.fixture
def password(tmp_path: Path) -> str:
    """A file with a password."""
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\nThis is the second line.\n")
    return str(file)


@pytest.fixture
def store(wsgi: Any) -> Any:
    """The store of the application."""
    return wsgi.registry.store


def refused(done: Any, status: int, *words: str) -> None:
    """Assert the exit status of a command that failed with these messages and without a traceback."""
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    for each in words:
        assert each in done.stderr


def test_a_created_user_can_log_in(ini: Path, app: TestApp, password: str) -> None:
    done = admin(ini, "createuser", "grace", "--password-file", password)
    assert done.stdout == "Created user grace.\n"
    grace = Client(app, "grace")
    assert grace("GET", "users/grace", status=200).json["role"] == "user"


def test_a_user_is_created_with_a_role(ini: Path, app: TestApp, password: str) -> None:
    admin(ini, "createuser", "grace", "--role", "admin", "--password-file", password)
    assert Client(app, "grace")("GET", "users/grace").json["role"] == "admin"


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        ("grace", "short", "password: Must have 15 to 256 characters."),
        ("Not A Slug", PASSWORD, "name: Must be a slug"),
        ("ada", PASSWORD, "The user name ada is already taken."),
    ],
)
def test_an_invalid_user_is_not_created(
    ini: Path, ada: Client, db: Any, tmp_path: Path, name: str, password: str, words: str
) -> None:
    (tmp_path / "password").write_text(password)
    done = admin(ini, "createuser", name, "--password-file", str(tmp_path / "password"), check=False)
    refused(done, 1, words)
    assert db.scalars(sa.select(User.name)).all() == ["ada"]


def test_a_missing_password_file_is_reported(ini: Path, app: TestApp, tmp_path: Path) -> None:
    file = str(tmp_path / "absent")
    refused(admin(ini, "createuser", "grace", "--password-file", file, check=False), 1, file)


def test_a_created_token_is_valid_for_its_user(ini: Path, app: TestApp, ada: Client) -> None:
    token = admin(ini, "createtoken", "ada").stdout.strip()
    Client(app, "ada", token)("GET", "users/ada", status=200)
    Client(app, "ada", token)("POST", "users/ada/pipelines", {"name": "p"}, status=201)


def test_a_created_token_expires_after_the_chosen_time(ini: Path, app: TestApp, ada: Client) -> None:
    token = admin(ini, "createtoken", "ada", "--days=1.5").stdout.strip()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["exp"] - claims["iat"] == 1.5 * 86400


@pytest.mark.parametrize("days", ["0", "-1", "nan", "1e9", "soon"])
def test_a_token_without_a_lifetime_is_refused(capsys: Any, days: str) -> None:
    with pytest.raises(SystemExit) as refusal:
        parser().parse_args(["createtoken", "ada", f"--days={days}"])
    assert refusal.value.code == 2
    assert "argument --days: " in capsys.readouterr().err


def test_an_unknown_user_gets_no_token(ini: Path, app: TestApp) -> None:
    refused(admin(ini, "createtoken", "nobody", check=False), 1, "User nobody not found.")


@pytest.mark.parametrize(("name", "status"), [("ada", 0), ("nobody", 1)])
def test_the_exit_status_shows_whether_a_user_exists(ini: Path, ada: Client, name: str, status: int) -> None:
    done = admin(ini, "checkuserexists", name, check=False)
    assert (done.returncode, done.stdout) == (status, "")


def packed(kind: str, folder: Path) -> Path:
    """The sample module as a folder, or as an archive."""
    files = [path for path in HELLOWORLD.iterdir() if path.is_file()]
    target = folder / f"helloworld{kind}"
    if kind == ".tar.gz":
        with tarfile.open(target, "w:gz") as tar:
            for path in files:
                tar.add(path, path.name)
    elif kind == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for path in files:
                archive.write(path, path.name)
    else:
        target.mkdir()
        for path in files:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_module_is_the_same_version_from_a_folder_and_from_any_archive(
    ini: Path, ada: Client, tmp_path: Path
) -> None:
    output = [
        admin(ini, "createmodule", "hello", str(packed(kind, tmp_path))).stdout for kind in ("", ".tar.gz", ".zip")
    ]
    version = ada("GET", "modules/hello/versions", status=200).json["items"][0]["version"]
    again = f"Unchanged: hello, version 1, {version}.\n"
    assert output == [f"Registered hello, version 1, {version}.\n", again, again]


def test_changed_content_is_another_version(ini: Path, ada: Client, tmp_path: Path) -> None:
    folder = packed("", tmp_path)
    admin(ini, "createmodule", "hello", str(folder))
    (folder / "more.txt").write_text("more")
    assert admin(ini, "createmodule", "hello", str(folder)).stdout.startswith("Registered hello, version 2, ")
    assert len(ada("GET", "modules/hello/versions").json["items"]) == 2


def test_all_errors_of_a_manifest_are_printed_together(ini: Path, db: Any, tmp_path: Path) -> None:
    folder = packed("", tmp_path)
    manifest = folder / "mlsploit_module.yaml"
    text = manifest.read_text().replace("type: str", "type: string").replace("tagline:", "slogan:")
    manifest.write_text(text)
    done = admin(ini, "createmodule", "hello", str(folder), check=False)
    wrong = ("tagline", "slogan", "functions.0.options.0.type", "functions.0.output_tags.0.type")
    refused(done, 1, *(f"manifest.{name}: " for name in wrong))
    assert len(done.stderr.splitlines()) >= len(wrong)
    assert db.scalars(sa.select(Module)).all() == []


@pytest.mark.parametrize("name", ["absent", "garbage.zip"])
def test_a_source_that_is_not_a_module_is_rejected(ini: Path, app: TestApp, tmp_path: Path, name: str) -> None:
    (tmp_path / "garbage.zip").write_bytes(b"PK\x03\x04 no more")
    done = admin(ini, "createmodule", "hello", str(tmp_path / name), check=False)
    refused(done, 1)
    assert done.stderr


def test_an_unused_module_is_removed(ini: Path, ada: Client) -> None:
    admin(ini, "createmodule", "hello", str(HELLOWORLD))
    assert admin(ini, "removemodule", "hello").stdout == "Removed hello with 1 version(s).\n"
    ada("GET", "modules/hello", status=404)
    refused(admin(ini, "removemodule", "hello", check=False), 1, "Module hello not found.")


def test_a_module_in_use_is_not_removed(ini: Path, ada: Client, helloworld: str) -> None:
    pipeline = ada("POST", "users/ada/pipelines", {"name": "p"}, status=201).json
    ada("POST", pipeline["tasks"], {"function": helloworld}, status=201)
    refused(admin(ini, "removemodule", "helloworld", check=False), 1, "functions of this module")
    ada("GET", helloworld, status=200)


def test_workers_are_listed_with_their_health(ini: Path, db: Any) -> None:
    assert admin(ini, "listworkers").stdout == ""
    for name in ("two", "one"):
        workers.beat(db, name, f"{name}.example", "1")
    workers.count_fault(db, "two", "No space left on device.")
    db.commit()
    one, two, fault = admin(ini, "listworkers").stdout.splitlines()
    assert re.fullmatch(r"one: healthy, heartbeat \d+ s ago on one\.example", one)
    assert re.fullmatch(r"two: failing, heartbeat \d+ s ago on two\.example", two)
    assert re.fullmatch(r"  1 fault\(s\), claims no job for [01] s\. No space left on device\.", fault)


def test_queues_are_listed_and_locked(ini: Path, root: Client, db: Any) -> None:
    root("POST", "queues", {"name": "gpu", "limit": 2}, status=201)
    default = "default: 0 waiting, 0 running"
    assert admin(ini, "listqueues").stdout.splitlines() == [default, "gpu: 0 waiting, 0 of at most 2 running"]
    assert admin(ini, "lockqueue", "gpu").stdout == "Locked gpu.\n"
    assert root("GET", "queues/gpu").json["locked"] is True
    assert admin(ini, "listqueues").stdout.splitlines()[1] == "gpu: 0 waiting, 0 of at most 2 running, locked"
    assert admin(ini, "unlockqueue", "gpu").stdout == "Unlocked gpu.\n"
    assert root("GET", "queues/gpu").json["locked"] is False
    refused(admin(ini, "lockqueue", "nothing", check=False), 1, "Queue nothing not found.")
    workers.beat(db, "one", "here", "1", workers.Offer(queues=["gpu", "default"], slots=2))
    db.commit()
    assert "  serves gpu default with 2 slot(s)" in admin(ini, "listworkers").stdout.splitlines()


@pytest.fixture
def listed(wsgi: Any, capsys: Any) -> Callable[..., list[dict[str, str]]]:
    """A function that executes the command of a list, in this process, and returns its lines by columns."""

    def lines(*words: str) -> list[dict[str, str]]:
        arguments = parser().parse_args(words)
        assert arguments.run(wsgi.registry.mlapi, arguments) == 0
        head, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
        return [dict(zip(head, row, strict=True)) for row in rows]

    return lines


def test_users_and_modules_are_listed_newest_first(listed: Any, root: Client, ada: Client, helloworld: str) -> None:
    assert [(user["name"], user["role"]) for user in listed("listusers")] == [("ada", "user"), ("root", "admin")]
    assert [user["name"] for user in listed("listusers", "--limit", "1")] == ["ada"]
    assert [user["name"] for user in listed("listusers", "--role", "admin")] == ["root"]
    [module] = listed("listmodules")
    version = root("GET", "modules/helloworld").json["version"]
    assert (module["name"], module["version"]) == ("helloworld", version.rpartition("/")[2])


def test_runs_and_jobs_are_listed_by_status_and_owner(
    ini: Path, listed: Any, ada: Client, bob: Client, helloworld: str
) -> None:
    runs = {}
    for client in (ada, bob, ada):
        file = client.upload("a.txt", b"a").json
        pipeline, _ = pipeline_of(client, {"function": helloworld}, {"function": helloworld})
        runs[client.name] = client("POST", pipeline["runs"], {"files": [file["url"]]}, status=201).json
    newest = listed("listruns", "--owner", "ada")[0]
    assert int(newest["id"]) == runs["ada"]["id"]
    assert (newest["owner"], newest["status"], newest["over"], newest["jobs"]) == ("ada", "QUEUED", "0", "2")
    assert [run["owner"] for run in listed("listruns")] == ["ada", "bob", "ada"]
    assert listed("listruns", "--pipeline", newest["pipeline"]) == [newest]
    jobs = listed("listjobs", "--status", "PENDING", "--owner", "ada")
    assert [(job["owner"], job["module"], job["function"], job["status"]) for job in jobs] == [
        ("ada", "helloworld", "say_hello", "PENDING")
    ] * 2
    assert len(listed("listjobs")) == 6
    assert len(listed("listjobs", "--limit", "3")) == 3
    assert admin(ini, "listjobs", "--owner", "bob", "--status", "QUEUED").stdout.count("\n") == 2
    refused(admin(ini, "listjobs", "--limit", "0", check=False), 2, "--limit: must be a positive integer")


def test_a_list_has_one_line_for_each_row(listed: Any, ada: Client, helloworld: str, db: Any) -> None:
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    file = ada.upload("a.txt", b"a").json
    ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201)
    db.execute(sa.update(Job).values(status="FAILED", reason="It\tfailed.\n\x1b[31mBadly.\x00"[:-1]))
    db.commit()
    [job] = listed("listjobs")
    assert job["reason"] == "It failed. [31mBadly."


def test_the_ini_file_can_be_named_before_and_after_the_command(ini: Path, ada: Client) -> None:
    program = command("mlapi-admin")
    for words in (
        ["-c", ini, "checkuserexists", "ada"],
        ["checkuserexists", "-c", ini, "ada"],
        ["checkuserexists", "ada", "--config", ini],
    ):
        assert subprocess.run([program, *words], check=False).returncode == 0
    done = subprocess.run([program, "check"], capture_output=True, text=True, check=False)
    refused(done, 2, "-c INI is required")


def test_a_sweep_deletes_unreferenced_contents_only(ini: Path, ada: Client, store: Any, db: Any) -> None:
    file = ada.upload("kept.txt", b"kept", status=201).json
    unnamed = store.put([b"left over"])
    assert "Deleted 0 blobs" in admin(ini, "sweep").stdout  # The grace period has not ended.
    done = admin(ini, "sweep", env={**os.environ, "MLAPI_SWEEP_GRACE": "0.001"})
    assert store.size(unnamed.sha256) is None
    assert done.stdout.startswith("Deleted ")
    assert ada("GET", file["content"], status=200).body == b"kept"


def test_check_finds_no_violations_in_sound_data(ini: Path, ada: Client, helloworld: str) -> None:
    file = ada.upload("a.txt", b"a", status=201).json
    pipeline = ada("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json
    ada("POST", pipeline["tasks"], {"function": helloworld}, status=201)
    ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201)
    done = admin(ini, "check")
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "No violations.")


def test_check_reports_damaged_data(ini: Path, ada: Client, helloworld: str, store: Any, db: Any) -> None:
    file = ada.upload("a.txt", os.urandom(32), status=201).json
    pipeline = ada("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json
    ada("POST", pipeline["tasks"], {"function": helloworld}, status=201)
    run = ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201).json
    (job,) = ada("GET", run["jobs"]).json["items"]
    db.execute(sa.update(Job).values(status="RUNNING", attempt=1))
    db.commit()
    store._path(file["sha256"]).write_bytes(b"something else")
    done = admin(ini, "check", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"I3 job {job['id']} has attempt number 1, but 0 attempts",
        f"I4 job {job['id']} is RUNNING without a valid lease",
        f"I7 the content of file {file['id']} is missing or damaged",
    ]
    assert done.stderr.splitlines()[-1] == "3 violation(s)."


def run(program: str, ini: Path) -> Any:
    """Run a program with an invalid ini file."""
    words = ["-c", str(ini), "check"] if program == "mlapi-admin" else [str(ini)]
    return subprocess.run([command(program), *words], capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("program", ["mlapi-admin", "mlapi-scheduler"])
def test_all_invalid_settings_are_reported_and_nothing_starts(tmp_path: Path, program: str) -> None:
    ini = write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", slots="many", no_such="1", job_lease="-1")
    words = ["-c", str(ini), "check"] if program == "mlapi-admin" else [str(ini)]
    done = subprocess.run([command(program), *words], capture_output=True, text=True, timeout=20, check=False)
    refused(done, 2, "mlapi.slots: 'many'", "mlapi.no_such: unknown setting", "mlapi.job_lease: '-1'")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("option", "where"),
    [
        ("host = 127.0.0.1", "mlapi.host and mlapi.port"),
        ("port = 6543", "mlapi.host and mlapi.port"),
        ("listen = *:6543", "mlapi.host and mlapi.port"),
        ("unix_socket = socket", "mlapi.host and mlapi.port"),
        ("threads = 4", "mlapi.threads"),
    ],
)
def test_a_setting_among_the_server_options_is_rejected(tmp_path: Path, option: str, where: str) -> None:
    ini = write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", migrate="true")
    ini.write_text(ini.read_text().replace("[server:main]\n", f"[server:main]\n{option}\n"))
    done = subprocess.run([command("pserve"), ini], capture_output=True, text=True, timeout=20, check=False)
    name = option.partition(" ")[0]
    assert done.returncode == 1
    message = f"[server:main] cannot have the option {name}: set {where} in [app:main]."
    assert done.stderr.splitlines()[-1] == message
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["mlapi-admin", "mlapi-scheduler"])
@pytest.mark.parametrize("text", [None, "no section\n", "[server:main]\nuse = egg:mlapi\n"])
def test_an_unusable_ini_file_is_rejected(tmp_path: Path, program: str, text: str | None) -> None:
    ini = tmp_path / "some.ini"
    if text is not None:
        ini.write_text(text)
    refused(run(program, ini), 2, f"{ini} cannot be used: ")


@pytest.mark.parametrize("program", ["mlapi-admin", "mlapi-scheduler", "pserve", "pshell", "alembic"])
def test_a_command_shows_no_warnings(program: str) -> None:
    done = subprocess.run([command(program), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr == ""


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: Any, tmp_path: Path) -> Path:
    """An ini file with an empty database without tables."""
    url = f"sqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgresql"))
    return write_ini(tmp_path, url)


def test_migrations_create_the_tables_of_the_models_and_remove_them(fresh: Path) -> None:
    def alembic(*words: str) -> str:
        done = subprocess.run([command("alembic"), "-c", fresh, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    alembic("upgrade", "head")
    assert "No new upgrade operations detected." in alembic("check")
    alembic("downgrade", "base")
    assert alembic("current") == ""
    alembic("upgrade", "head")
    assert "No new upgrade operations detected." in alembic("check")
