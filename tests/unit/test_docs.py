"""The documentation is consistent with the code."""

import re
import subprocess
import sys

import pytest

from mlapi.execution.workspace import Workspace
from mlapi.pshell import RECIPES
from mlapi.settings import Settings, rows
from tests.support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_settings_and_services_are_documented():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_outdated_page_is_detected(tmp_path):
    for name in ("generate.py", "api.md", "settings.md"):
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
    (tmp_path / "settings.md").write_text("old")
    done = subprocess.run(
        [sys.executable, tmp_path / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "settings.md" in done.stdout
    assert "api.md" not in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_a_target(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_ini_files_contain_only_known_settings():
    known = {f"mlapi.{name}" for name, _, _ in rows()}
    for ini in ("development.ini", "production.ini"):
        named = set(re.findall(r"mlapi\.[a-z_]+(?= =)", (ROOT / ini).read_text()))
        assert named <= known, ini
        assert "mlapi.data_dir" in named


def test_the_table_of_settings_has_the_actual_defaults():
    defaults = {name: default for name, default, _ in rows()}
    settings = Settings.read({"mlapi.data_dir": "/tmp", "mlapi.secret_key": "0123456789abcdef0123456789abcdef"}, {})
    assert str(settings.body_limit) == defaults["body_limit"]
    assert str(int(settings.job_lease)) == defaults["job_lease"]


def test_the_tree_in_the_readme_is_that_of_the_code():
    import mlapi.resources

    drawn = (ROOT / "README.md").read_text().partition("/api/v1\n")[2].partition("```")[0]
    for line in mlapi.resources.__doc__.splitlines():
        if "──" in line:
            place = line.strip().partition("  ")[0]
            assert place in drawn, place


def test_the_environment_of_a_function_is_documented(tmp_path):
    with Workspace(str(tmp_path)) as workspace:
        environment = workspace.environment("/usr/bin/python3")
    table = (ROOT / "docs" / "modules.md").read_text().partition("| variable | value |")[2]
    names = re.findall(r"`([A-Z_]+)`(?=,| \|)", table)
    assert sorted(names) == sorted(environment)
    assert len(environment) == 11  # As the text above the table says.


def test_the_recipes_of_the_shell_are_those_of_the_banner():
    assert f"```python\n{RECIPES}```\n" in (ROOT / "docs" / "operation.md").read_text()
