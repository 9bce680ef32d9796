"""The validation of output.json and of the files it names."""

import json
import os
import socket

import pytest

from mlapi.execution.outputs import BadOutput, read_outputs


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


def write_output(folder, *files, **fields):
    """Write an output.json that names these files, and the files."""
    for name in files:
        (folder / name).write_text(name)
    document = {"name": "f", "files": list(files), "files_created": list(files), "files_modified": []} | fields
    (folder / "output.json").write_text(json.dumps(document))


def error_of(folder, inputs=()):
    with pytest.raises(BadOutput) as caught:
        read_outputs(folder, inputs)
    return str(caught.value)


def test_every_file_has_an_origin_and_tags(folder):
    write_output(
        folder,
        "new",
        "changed",
        "same",
        "over",
        "scrap",
        files_created=["new", "over"],
        files_modified=["changed"],
        tags=[{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}, {"n": 5}],
        metrics={"a": [1, 2.5, None, {"b": True}]},
    )
    outputs = read_outputs(folder, ["changed", "same", "over", "unused"])
    assert [(output.name, output.origin, output.tags["n"]) for output in outputs.files] == [
        ("new", "created", 1),
        ("changed", "modified", 2),
        ("same", "unchanged", 3),
        ("over", "created", 4),
    ]
    assert outputs.ignored == ["scrap"]
    assert outputs.metrics == {"a": [1, 2.5, None, {"b": True}]}


def test_only_the_list_of_files_is_required(folder):
    write_output(folder, "a")
    (folder / "output.json").write_text('\ufeff{"files": ["a"], "metrics": null}', encoding="utf-8")
    outputs = read_outputs(folder, ["a"])
    assert [(output.name, output.origin, output.tags) for output in outputs.files] == [("a", "unchanged", {})]
    assert outputs.metrics == {}


def test_ignored_files_need_not_exist(folder):
    write_output(folder, files=["absent"])
    assert read_outputs(folder, []).ignored == ["absent"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "output.json is not JSON: Expecting value: line 1 column 1 (char 0)."),
        ('{"files": [], "metrics": {"a": NaN}}', "output.json is not JSON: NaN is not a JSON value."),
        (
            '{"files": [], "metrics": {"a": -Infinity}}',
            "output.json is not JSON: -Infinity is not a JSON value.",
        ),
        (
            '{"files": [], "metrics": {"a": 1e999}}',
            "output.json is not JSON: the number 1e999 is out of range.",
        ),
        ('{"files": [], "files": ["a"]}', "output.json is not JSON: duplicate key 'files'."),
        ("[" * 200_000, "output.json is not JSON: nested too deeply."),
        ('{"a":' * 200_000, "output.json is not JSON: nested too deeply."),
        ("1" * 5000, "output.json is not JSON: an integer has more than 20 digits."),
        ("[]", "output.json must be a JSON object."),
        ("{}", "'files' in output.json must be a list of file names."),
        ('{"files": "a"}', "'files' in output.json must be a list of file names."),
        ('{"files": [1]}', "'files' in output.json must be a list of file names."),
        ('{"files": [], "metrics": 3}', "'metrics' in output.json must be an object."),
        ('{"files": [], "tags": {}}', "'tags' in output.json must be a list of objects."),
        ('{"files": [], "tags": [1]}', "'tags' in output.json must be a list of objects."),
        ('{"files": [], "tags": [{}]}', "output.json has tags for 1 files, but lists 0 files."),
    ],
)
def test_an_invalid_output_json_is_an_error(folder, text, reason):
    (folder / "output.json").write_text(text)
    assert error_of(folder).startswith(reason)


def test_bytes_that_are_not_utf_8_are_an_error(folder):
    (folder / "output.json").write_bytes(b'{"files": ["\xff"]}')
    assert error_of(folder).startswith("output.json is not JSON: not UTF-8: invalid start byte at byte 12.")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/etc/passwd", "../input/a", "a\0b", "output.json", "\ud800", "ä" * 128, "a\\b", "a\nb"],
)
def test_names_that_are_not_plain_are_an_error(folder, name):
    write_output(folder, files=[name], files_created=[name])
    assert error_of(folder).startswith(f"Invalid file name {name[:80]!r} in output.json. ")


@pytest.mark.parametrize("name", ["...", " a ", "ä 文 €.txt", "-rf", "ä" * 120])
def test_unusual_names_are_allowed(folder, name):
    write_output(folder, name)
    (output,) = read_outputs(folder, []).files
    assert output.name == name


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"files": ["a", "a"]}, "Duplicate file name 'a' in 'files' of output.json."),
        ({"files_created": ["b"]}, "output.json has 'b' in 'files_created', but not in 'files'."),
        ({"files_modified": ["b"]}, "output.json has 'b' in 'files_modified', but not in 'files'."),
        ({"files_created": None}, "'files_created' in output.json must be a list of file names."),
        ({"files_modified": ["a"]}, "output.json has 'a' both in 'files_created' and in 'files_modified'."),
        (
            {"files_created": [], "files_modified": ["a"]},
            "output.json has 'a' in 'files_modified', but no input has that name.",
        ),
    ],
)
def test_contradictory_lists_are_an_error(folder, fields, reason):
    write_output(folder, "a", **fields)
    assert error_of(folder, ["b"]) == reason


def test_an_absent_file_is_an_error(folder):
    write_output(folder, files=["a"], files_created=["a"])
    assert error_of(folder) == "output.json names 'a', but the file is not in the output folder."


def test_the_number_of_files_is_limited(folder):
    names = [str(number) for number in range(1000)]
    write_output(folder, *names)
    assert len(read_outputs(folder, []).files) == 1000
    write_output(folder, files=[*names, "one more"])
    assert error_of(folder) == "'files' in output.json has 1001 files. The limit is 1000."


def test_the_size_of_output_json_is_limited(folder):
    text = json.dumps({"files": []})
    (folder / "output.json").write_text(text + " " * (4 * 2**20 - len(text)))
    assert read_outputs(folder, []).files == []
    with (folder / "output.json").open("a") as more:
        more.write(" ")
    assert error_of(folder) == "output.json is larger than 4 MiB."


def make_link(path, tmp_path):
    (tmp_path / "secret").write_text('{"files": []}')
    path.symlink_to(tmp_path / "secret")


def make_socket(path, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


MAKERS = {
    "link": make_link,
    "dangling link": lambda path, _: path.symlink_to("nowhere"),
    "pipe": lambda path, _: os.mkfifo(path),
    "folder": lambda path, _: path.mkdir(),
    "socket": make_socket,
    "device": lambda path, _: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["output.json", "a"])
def test_only_regular_files_are_read(folder, tmp_path, kind, name):
    write_output(folder, "a")
    (folder / name).unlink()
    MAKERS[kind](folder / name, tmp_path)
    assert error_of(folder).startswith(f"{name!r} in the output folder is not a ")


def test_an_output_folder_that_is_a_link_is_an_error(folder, tmp_path):
    write_output(folder, "a")
    (tmp_path / "link").symlink_to(folder)
    assert error_of(tmp_path / "link") == "The function removed its output folder."


def test_a_file_that_was_replaced_is_not_opened(folder):
    write_output(folder, "a", "b", "c")
    outputs = read_outputs(folder, [])
    a, b, c = outputs.files
    with outputs.open(a) as opened:
        assert opened.read() == b"a"
    (folder / "b").rename(folder / "old")
    (folder / "b").write_text("b")
    with pytest.raises(BadOutput, match="The output 'b' changed while it was read"):
        outputs.open(b)
    (folder / "c").write_text("longer")
    with pytest.raises(BadOutput, match="The output 'c' changed"):
        outputs.open(c)
    (folder / "c").unlink()
    (folder / "c").symlink_to("/etc/passwd")
    with pytest.raises(BadOutput, match="'c' in the output folder is not a readable file"):
        outputs.open(c)


def test_no_descriptor_is_left_open(folder, tmp_path):
    write_output(folder, "a")
    before = len(os.listdir("/proc/self/fd"))
    read_outputs(folder, [])
    (folder / "a").unlink()
    error_of(folder)
    os.mkfifo(folder / "a")
    error_of(folder)
    assert len(os.listdir("/proc/self/fd")) == before
