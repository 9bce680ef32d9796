"""pshell: its tree, its transaction, and the recipes of the manual."""

import re
import subprocess
from pathlib import Path
from typing import Any

from webtest import TestApp

from tests.support import ROOT, Client, claimed, command, pipeline_of

SHELL = """\
print("HERE", type(request).__name__, type(root).__name__, root["api"]["v1"]["users"].__name__)
print("THERE", db.scalar(models.User.__table__.select().with_only_columns(models.User.name)))
"""


def shell(ini: Path, script: str) -> str:
    """The output of a script that is typed into pshell."""
    done = subprocess.run(
        [command("pshell"), str(ini)], input=script, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout + done.stderr


def test_the_shell_provides_the_tree_and_the_tables(ini: Path, ada: Client) -> None:
    output = shell(ini, SHELL)
    assert "Traceback" not in output
    assert "HERE Request Root users" in output
    assert "THERE ada" in output


def recipes() -> str:
    """The recipes for the shell in docs/operation.md."""
    (found,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "operation.md").read_text(), re.DOTALL)
    return str(found)


def test_the_recipes_of_the_manual_work_as_printed(
    ini: Path, ada: Client, app: TestApp, wsgi: Any, db: Any, helloworld: str
) -> None:
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    kept, _ = (ada.upload(name, b"a", status=201).json for name in ("kept.txt", "last.txt"))
    _, running = (ada("POST", pipeline["runs"], {"files": [kept["url"]]}, status=201).json for _ in range(2))
    first, second = claimed(app, wsgi, most=2)
    first.report("FAILED", reason="Out of luck.")
    second("PUT", f"{second.url}/log?offset=0", body=b"The end of the log.", status=200)

    output = shell(ini, recipes())

    assert "Traceback" not in output
    assert len(re.findall(r"^# \d+\. ", recipes(), re.MULTILINE)) == 10
    assert recipes() in output  # The banner shows them.
    for shown in ("'name': 'ada'", "'Out of luck.')]", "The end of the log."):
        assert shown in output
    (job,) = ada("GET", running["jobs"]).json["items"]
    assert (job["status"], "An operator queued the job again." in job["reason"]) == ("QUEUED", True)
    assert [each["id"] for each in ada("GET", "pipelines").json["items"]] == [pipeline["id"]]
    assert [each["name"] for each in ada("GET", "files").json["items"]] == ["kept.txt"]
    credentials = {"name": "ada", "password": "a long new password"}
    app.post_json("/api/v1/auth/token", credentials, headers={"Host": "localhost:6543"}, status=200)


def test_the_shell_begins_a_new_transaction_after_each_commit_and_error(ini: Path, ada: Client, bob: Client) -> None:
    output = shell(
        ini,
        """\
ada, bob = db.scalars(sa.select(models.User).order_by(models.User.name))
tm.commit()
bob.name, ada.role = "ada", "admin"
tm.commit()
print("ROLE", db.scalars(sa.select(models.User.role).where(models.User.name == "ada")).one())
print("COUNT", db.execute(sa.update(models.User).where(models.User.name == "ada").values(role="admin")).rowcount)
tm.commit()
print("NOW", db.scalars(sa.select(models.User.role).where(models.User.name == "ada")).one(), ada.name)
root["api"]["v1"]["users"]["nobody"].document()
root["api"]["v1"]["pipelines"]["7"].document()
root["absent"]
db.delete(bob)
tm.commit()
""",
    )
    assert "ROLE user\n" in output
    assert "COUNT 1\n" in output
    assert "NOW admin ada\n" in output
    assert re.findall(r"^KeyError: .*$", output, re.MULTILINE) == [
        "KeyError: 'nobody'",
        "KeyError: '7'",
        "KeyError: 'absent'",
    ]
    assert "HTTPUnauthorized" not in output
    ada("GET", "users/bob", status=404)
    bob("GET", "users/bob", status=401)
