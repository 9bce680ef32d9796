"""Modules over HTTP: registration by administrators, immutable versions, formats of archives."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from urllib.parse import urlsplit

import pytest

from tests.support import ROOT, Client, World, another_app, is_problem, little_room

SAMPLE = ROOT / "modules" / "helloworld"
MANIFEST = (SAMPLE / "mlsploit_module.yaml").read_bytes()
FILES = {"mlsploit_module.yaml": MANIFEST, "main.py": b"print('hello')\n"}


def tar(files, mode="w:gz", **links):
    """A tar of files (name and content) and links (name and target)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind, target in links.items():
            member = tarfile.TarInfo(kind)
            member.type, member.linkname = getattr(tarfile, kind), target
            archive.addfile(member)
    return packed.getvalue()


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def register(client, content, name="m", **kw):
    return client.form("modules", {"name": name}, "archive", "module.archive", content, **kw)


def nothing_is_registered(client):
    return client("GET", "modules", status=200).json["items"] == []


def test_a_module_shows_its_metadata_and_functions(root, ada):
    made = register(root, tar(FILES), "hello", status=201)
    assert made.headers["Location"] == made.json["url"]
    module = ada("GET", "modules/hello", status=200).json
    assert module | {"registered": module["version"]} == made.json
    assert (module["name"], module["display_name"]) == ("hello", "Hello World")
    version = ada("GET", module["version"], status=200).json
    assert (version["number"], version["command"]) == (1, ["python", "main.py"])
    assert ada("GET", module["versions"]).json["items"] == [version]
    (function,) = ada("GET", module["functions"]).json["items"]
    assert ada("GET", version["functions"]).json["items"] == [function]
    assert ada("GET", f"{module['functions']}/say_hello").json == function
    assert ada("GET", function["url"]).json == function
    assert [(option["name"], option["type"], option["default"]) for option in function["options"]] == [
        ("greeting", "str", "Hello"),
        ("excited", "bool", False),
    ]


KINDS = {
    "tar": tar(FILES, "w"),
    "tar.gz": tar(FILES),
    "zip": zipped(FILES),
    "tar within a folder": tar({f"repo-1.0/{name}": content for name, content in FILES.items()}),
    "zip within a folder": zipped({f"repo-1.0/{name}": content for name, content in FILES.items()}),
    "tar with what is left out": tar(FILES | {".git/config": b"x", "__pycache__/main.pyc": b"x"}),
}


def test_the_same_content_is_the_same_version_from_any_archive(root):
    first = register(root, KINDS["tar"], status=201)
    for archive in KINDS.values():
        again = register(root, archive, status=200)
        assert again.json == first.json
        assert again.headers["Location"] == first.headers["Location"]
    assert len(root("GET", first.json["versions"]).json["items"]) == 1


@pytest.mark.parametrize("archive", KINDS.values(), ids=KINDS)
def test_every_format_of_archive_is_accepted(archive, root):
    register(root, archive, status=201)


def test_the_same_content_may_be_registered_under_two_names(root):
    digests = {register(root, KINDS["zip"], name, status=201).json["version"][-64:] for name in ("a", "b")}
    assert len(digests) == 1


def test_older_content_registered_again_keeps_its_version(root):
    first, second = (register(root, tar(FILES | {"v": v}), status=201).json for v in (b"1", b"2"))
    again = register(root, tar(FILES | {"v": b"1"}), status=200).json
    assert again["registered"] == first["registered"] == first["version"]
    assert again["version"] == second["version"]


def test_other_content_is_a_new_version_and_the_old_one_remains(root):
    first = register(root, tar(FILES), status=201).json
    old = root("GET", first["version"]).json
    second = register(root, tar(FILES | {"main.py": b"# changed\n"}), status=201).json
    assert second["url"] == first["url"]
    assert root("GET", first["url"]).json["version"] == second["registered"]
    assert root("GET", first["version"]).json == old
    versions = root("GET", second["versions"]).json["items"]
    assert [(each["number"], each["url"]) for each in versions] == [
        (2, second["version"]),
        (1, first["version"]),
    ]


def test_versions_and_functions_are_immutable(root):
    made = register(root, tar(FILES), status=201).json
    function = f"{made['functions']}/say_hello"
    for url in (made["version"], function, made["versions"], made["functions"]):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            is_problem(root(method, url, body=b"{}", headers={"Content-Type": "application/json"}), 405)
    for method in ("POST", "PUT", "PATCH"):
        is_problem(root(method, made["url"], body=b"{}"), 405)


def test_only_admins_register_and_remove(root, ada, nobody):
    made = register(root, tar(FILES), status=201).json
    is_problem(register(ada, tar(FILES)), 403)
    is_problem(ada("DELETE", made["url"]), 403)
    is_problem(register(nobody, tar(FILES)), 401)
    is_problem(nobody("DELETE", made["url"]), 401)
    is_problem(nobody("GET", made["url"]), 401)


BOMB = bytes(50 * 2**20)

HOSTILE = {
    "nothing": b"",
    "text": b"This is no archive.",
    "the manifest itself": MANIFEST,
    "a cut archive": tar(FILES)[:-20],
    "bzip2": bz2.compress(tar(FILES, "w")),
    "xz": lzma.compress(tar(FILES, "w")),
    "no files": tar({}),
    "a parent folder": tar(FILES | {"../evil": b"x"}),
    "a parent folder within": tar(FILES | {"a/../../evil": b"x"}),
    "a parent folder in a zip": zipped(FILES | {"../evil": b"x"}),
    "an absolute path": tar(FILES | {"/tmp/evil": b"x"}),
    "a path of Windows": zipped(FILES | {"..\\evil": b"x"}),
    "NUL in a name": tar(FILES | {"a\nb": b"x"}),
    "a symbolic link": tar(FILES, SYMTYPE="/etc/passwd"),
    "a symbolic link within": tar(FILES, SYMTYPE="main.py"),
    "a hard link": tar(FILES, LNKTYPE="main.py"),
    "a device": tar(FILES, CHRTYPE=""),
    "a named pipe": tar(FILES, FIFOTYPE=""),
    "a bomb": tar(FILES | {"zeros": BOMB}),
    "a bomb in a zip": zipped(FILES | {"zeros": BOMB}),
    "a bomb of files": tar(FILES | {f"f{n}": b"" for n in range(1001)}),
    "a file twice by case": tar(FILES | {"MAIN.py": b"x"}),
    "a bomb in a bomb": gzip.compress(gzip.compress(tar(FILES | {"zeros": BOMB}, "w"))),
}


@pytest.mark.parametrize("archive", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_rejected_and_leaves_nothing(archive, root, wsgi):
    is_problem(register(root, archive), 422, "archive")
    assert nothing_is_registered(root)
    assert list(wsgi.registry.mlapi.scratch_dir.iterdir()) == []


def changed(text, by):
    assert text.encode() in MANIFEST
    return MANIFEST.replace(text.encode(), by.encode())


MANIFESTS = {
    "none": ({"main.py": b""}, "manifest"),
    "in a folder": ({"main.py": b"", "a/mlapi.yaml": MANIFEST}, "manifest"),
    "two": (FILES | {"mlapi.yaml": MANIFEST}, "manifest"),
    "empty": ({**FILES, "mlsploit_module.yaml": b""}, "manifest"),
    "text": ({**FILES, "mlsploit_module.yaml": b"hello"}, "manifest"),
    "a list": ({**FILES, "mlsploit_module.yaml": b"- 1"}, "manifest"),
    "broken YAML": ({**FILES, "mlsploit_module.yaml": b"functions: [\n - name: x\n  bad"}, "manifest"),
    "tabs": ({**FILES, "mlsploit_module.yaml": b"a:\n\t- b"}, "manifest"),
    "not UTF-8": ({**FILES, "mlsploit_module.yaml": MANIFEST + b"# \xff"}, "manifest"),
    "NUL": ({**FILES, "mlsploit_module.yaml": MANIFEST + b"# \0"}, "manifest"),
    "several documents": ({**FILES, "mlsploit_module.yaml": MANIFEST + b"---\na: 1"}, "manifest"),
    "a tag": (
        {**FILES, "mlsploit_module.yaml": b"a: !!python/object/apply:os.system [touch /tmp/x]"},
        "manifest.a",
    ),
    "an alias bomb": (
        {**FILES, "mlsploit_module.yaml": b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]"},
        "manifest.a",
    ),
    "a merge key": ({**FILES, "mlsploit_module.yaml": b"<<: {a: 1}"}, "manifest"),
    "a key twice": ({**FILES, "mlsploit_module.yaml": b"a: 1\na: 2"}, "manifest.a"),
    "100,000 levels": ({**FILES, "mlsploit_module.yaml": b"a: " + b"[" * 100_000}, None),
    "1 MiB": ({**FILES, "mlsploit_module.yaml": MANIFEST + b"#" * 2**20}, "manifest"),
    "no main.py": ({"mlsploit_module.yaml": MANIFEST}, "manifest.command"),
    "an unknown key": ({**FILES, "mlsploit_module.yaml": MANIFEST + b"color: red\n"}, "manifest.color"),
    "a number for a name": (
        {**FILES, "mlsploit_module.yaml": changed("name: say_hello", "name: 3")},
        "manifest.functions.0.name",
    ),
    "an unknown type": (
        {**FILES, "mlsploit_module.yaml": changed("type: bool", "type: file")},
        "manifest.functions.0.options.1.type",
    ),
    "a default of another type": (
        {**FILES, "mlsploit_module.yaml": changed("default: false", "default: 0")},
        "manifest.functions.0.options.1.default",
    ),
    "an option twice": (
        {**FILES, "mlsploit_module.yaml": changed("name: excited", "name: greeting")},
        "manifest.functions.0.options.1.name",
    ),
}


@pytest.mark.parametrize(("files", "field"), MANIFESTS.values(), ids=MANIFESTS)
def test_an_error_of_a_manifest_names_its_field(files, field, root):
    problem = is_problem(register(root, tar(files, "w")), 422)
    names = [each["name"] for each in problem["errors"]]
    assert field in names if field else names
    assert nothing_is_registered(root)


def test_all_errors_of_a_manifest_are_reported_together(root):
    bad = changed("type: bool", "type: file").replace(b"tagline: ", b"tag: ")
    problem = is_problem(register(root, tar(FILES | {"mlsploit_module.yaml": bad})), 422)
    names = {each["name"] for each in problem["errors"]}
    assert names == {"manifest.tag", "manifest.tagline", "manifest.functions.0.options.1.type"}


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/b", "-a", ".a", "é", "a" * 64, "a\nb"])
def test_a_module_name_must_be_a_slug(name, root):
    is_problem(register(root, tar(FILES), name), 422, "name")
    assert nothing_is_registered(root)


def test_a_form_without_a_name_or_an_archive_is_rejected(root):
    is_problem(root.form("modules", {}, "archive", "m.tar", tar(FILES)), 422, "name")
    is_problem(root.form("modules", {"name": "m"}, "file", "m.tar", tar(FILES)), 422, "file", "archive")
    is_problem(root.form("modules", {"name": "m", "version": "1"}, "archive", "m", tar(FILES)), 422, "version")
    is_problem(root("POST", "modules", {"name": "m"}), 415)
    is_problem(root("POST", "modules", body=b"", headers={"Content-Type": "multipart/form-data"}), 400)


def test_an_archive_over_the_limit_is_rejected(root, wsgi, tmp_path):
    archive = tar(FILES)
    with another_app(wsgi, tmp_path, module_limit=len(archive)) as app:
        client = Client(app, "root", root.headers["Authorization"][7:])
        is_problem(register(client, archive + b"\0"), 413)
        register(client, archive, status=201)


@pytest.mark.parametrize("kind", ["disk", "file size"])
@pytest.mark.parametrize("full", ["where it is spooled", "where it is kept"])
def test_a_full_disk_is_reported_and_registers_nothing(full, kind, root, wsgi, tmp_path):
    (small := tmp_path / "small").mkdir()
    (large := tmp_path / "large").mkdir()
    spool, media = (small, large) if full == "where it is spooled" else (large, small)
    archive = tar(FILES | {"weights": os.urandom(2**24)})
    with (
        little_room(kind, small),
        another_app(wsgi, tmp_path, media_dir=media / "files", scratch_dir=spool / "scratch") as app,
    ):
        client = Client(app, "root", root.headers["Authorization"][7:])
        is_problem(register(client, archive), 507)
        assert nothing_is_registered(client)
        assert list(app.app.registry.store.blobs()) == []
        assert list((spool / "scratch").iterdir()) == []


@pytest.fixture
def pipeline(ada, helloworld):
    """A pipeline of ada with a task of the sample module."""
    made = ada("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json
    task = ada("POST", made["tasks"], {"function": helloworld}, status=201).json
    return made | {"task": task}


def test_a_task_keeps_its_version_until_its_function_is_changed(root, ada, helloworld, pipeline):
    task = pipeline["task"]
    other = changed("default: Hello", "default: Howdy")
    newer = register(root, tar(FILES | {"mlsploit_module.yaml": other}), "helloworld", status=201).json
    assert ada("GET", task["url"]).json == task
    assert not task["function"].startswith(newer["version"])
    ada("PATCH", task["url"], {"arguments": {}}, status=200)
    assert ada("GET", task["url"]).json == task
    moved = ada("PATCH", task["url"], {"function": helloworld, "arguments": {}}, status=200).json
    assert moved["function"] == f"{newer['version']}/functions/say_hello"
    assert moved["arguments"]["greeting"] == "Howdy"
    back = ada("PATCH", task["url"], {"function": task["function"], "arguments": {}}, status=200).json
    assert back == task


def test_a_change_to_a_version_with_other_options_is_rejected(root, ada, helloworld, pipeline):
    task = pipeline["task"]
    register(
        root,
        tar(FILES | {"mlsploit_module.yaml": changed("name: excited", "name: loud")}),
        "helloworld",
        status=201,
    )
    is_problem(ada("PATCH", task["url"], {"function": helloworld}), 422, "arguments.excited")
    assert ada("GET", task["url"]).json == task


def test_a_module_is_not_removed_while_a_task_uses_it(root, ada, pipeline):
    is_problem(root("DELETE", "modules/helloworld"), 409)
    ada("GET", pipeline["task"]["function"], status=200)
    ada("DELETE", pipeline["url"], status=200)
    assert root("DELETE", "modules/helloworld", status=200).json == {"deleted": {"modules": 1, "versions": 1}}
    for url in ("modules/helloworld", pipeline["task"]["function"]):
        is_problem(root("GET", url), 404)
    is_problem(root("DELETE", "modules/helloworld"), 404)


def test_a_module_is_not_removed_while_a_job_uses_it(root, helloworld, wsgi):
    world = World(root, helloworld, wsgi)
    pipeline = "users/root/pipelines/{pipeline}".format(**world.keys)
    root("DELETE", f"{pipeline}/tasks/{world.keys['task']}", status=200)
    is_problem(root("DELETE", "modules/helloworld"), 409)
    world.ask("POST", "/api/v1/attempts/{attempt}/report", json={"status": "FINISHED"}, status=200)
    root("DELETE", pipeline, status=200)
    root("DELETE", "modules/helloworld", status=200)


def test_a_removed_name_can_be_registered_again(root):
    for _ in range(2):
        made = register(root, tar(FILES), status=201).json
        assert urlsplit(made["url"]).path == "/api/v1/modules/m"
        root("DELETE", made["url"], status=200)
