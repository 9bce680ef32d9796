"""The folder in which an attempt runs, used by itself."""

import os
from pathlib import Path

from mlapi.execution.workspace import Workspace
from mlapi.scratch import remove_tree


def test_a_workspace_is_private_and_leaves_nothing(tmp_path):
    scratch = tmp_path / "made" / "scratch"
    with Workspace(str(scratch)) as place:
        made = sorted(str(path.relative_to(place.path)) for path in Path(place.path).rglob("*"))
        assert made == ["job", "job/input", "job/output", "job/tmp", "module", "runner"]
        assert Path(place.path).parent == scratch
        assert Path(place.path).name.startswith("attempt-")
        assert Path(place.path).stat().st_mode & 0o777 == 0o700
    assert list(scratch.iterdir()) == []


def test_workspaces_that_are_in_use_are_not_swept(tmp_path):
    (tmp_path / "attempt-left").mkdir()
    (tmp_path / "attempt-file").touch()
    (tmp_path / "other").mkdir()
    with Workspace(str(tmp_path)) as mine:
        with Workspace(str(tmp_path)) as theirs:
            assert mine.path != theirs.path
        assert os.path.isdir(mine.output)
        assert not (tmp_path / "attempt-left").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempt-file", "other"]


def test_a_tree_of_any_depth_and_permissions_is_removed(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    outside.chmod(0o755)
    root = tmp_path / "root"
    (root / "moved-1" / "x").mkdir(parents=True)
    (root / "locked" / "inner").mkdir(parents=True)
    (root / "locked" / "inner" / "file").touch()
    (root / "link").symlink_to(outside)
    (root / "locked" / "link").symlink_to(outside)
    (root / f"moved-{os.getpid()}-0").mkdir()
    os.mkfifo(root / "pipe")
    (root / "locked" / "inner").chmod(0o000)
    (root / "locked").chmod(0o500)
    monkeypatch.chdir(root)
    for _ in range(1500):
        os.mkdir("down")
        os.chdir("down")
    monkeypatch.undo()
    remove_tree(str(root))
    assert not root.exists()
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_removed_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "root" / "stuck").mkdir(parents=True)
    (tmp_path / "root" / "other").mkdir()
    really = os.rmdir

    def rmdir(path):
        if path.endswith("stuck"):
            raise PermissionError
        really(path)

    monkeypatch.setattr(os, "rmdir", rmdir)
    remove_tree(str(tmp_path / "root"))
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["stuck"]
    remove_tree(str(tmp_path / "absent"))
