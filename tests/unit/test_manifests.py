"""Manifests are validated strictly: every error names its place, and hostile input costs little work."""

import copy
import json
import os
from pathlib import Path

import pytest
import yaml

from mlapi.archives.manifests import BadManifest, read
from mlapi.models.manifests import Function
from mlapi.models.options import Option
from tests.work import count_calls

MLSPLOIT = """
display_name: Foolbox
tagline: Fool neural networks!
doctxt: Foolbox is a Python toolbox to create adversarial examples that fool neural
  networks.
functions:
- name: BasicIterativeMethod
  doctxt: 'The Basic Iterative Method introduced in [1].


    [1] Alexey Kurakin'
  options:
  - name: model
    type: enum
    doctxt: Pre-trained model to be attacked.
    required: true
    enum_values:
    - vgg16
    - custom
    default: vgg16
  - name: custom_model_url
    type: str
    doctxt: Git URL.
    required: false
    enum_values: null
    default: ''
  - name: epsilon
    type: float
    doctxt: Limit on the perturbation size.
    required: true
    default: 1
  - name: hash
    type: str
    doctxt: SHA-256.
    required: true
    default: null
  creates_new_files: true
  modifies_input_files: no
  expected_filetype: .ZIP
  optional_filetypes: [' .Jpg', train.txt]
  output_tags:
  - name: label
    type: str
- name: Submit
  doctxt: ''
  creates_new_files: true
  modifies_input_files: true
  expected_filetype: ''
  optional_filetypes: null
icon_url: https://github.com/mlsploit/foolbox-mlsploit/raw/master/static/module-icon.png
"""

OWN = {
    "display_name": "Robustness",
    "tagline": "",
    "doctxt": "Attacks.",
    "icon_url": None,
    "command": ["./run", "--fast"],
    "functions": [
        {
            "name": "train",
            "doctxt": "Trains.",
            "options": [
                {"name": "rate", "type": "float", "doctxt": "", "required": False, "default": 0.5},
                {"name": "seed", "type": "int", "doctxt": "", "required": True, "minimum": 0, "maximum": 9},
                {
                    "name": "title",
                    "type": "str",
                    "doctxt": "",
                    "required": True,
                    "maximum": 3,
                    "default": "abc",
                },
                {
                    "name": "kind",
                    "type": "enum",
                    "doctxt": "",
                    "required": True,
                    "enum_values": ["a"],
                    "default": "a",
                },
                {"name": "fast", "type": "bool", "doctxt": "", "required": False, "default": False},
            ],
            "creates_new_files": True,
            "modifies_input_files": False,
            "expected_filetype": "npz",
            "optional_filetypes": [],
            "output_tags": [{"name": "role", "type": "str"}, {"name": "share", "type": "float"}],
            "input_files": {"minimum": 2, "maximum": 3},
            "output_files": ["model.npz", "*.png"],
        }
    ],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_bytes(b"")
    return tmp_path


def write(folder, manifest, name="mlapi.yaml"):
    text = manifest if isinstance(manifest, str | bytes) else json.dumps(manifest)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def changed(path, value):
    """The own manifest with the value at a dotted path replaced, or removed where it is `...`."""
    manifest = copy.deepcopy(OWN)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = manifest
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return manifest


def errors_of(folder):
    with pytest.raises(BadManifest) as caught:
        read(folder)
    return dict(caught.value.errors)


def test_an_mlsploit_manifest_is_read(folder):
    manifest = read(write(folder, MLSPLOIT, "mlsploit_module.yaml"))
    assert (manifest.display_name, manifest.tagline) == ("Foolbox", "Fool neural networks!")
    assert manifest.doctxt.endswith("fool neural networks.")
    assert manifest.icon_url.endswith("/static/module-icon.png")
    assert manifest.command == ("python", "main.py")
    first, second = manifest.functions
    assert first == Function(
        name="BasicIterativeMethod",
        doctxt="The Basic Iterative Method introduced in [1].\n\n[1] Alexey Kurakin",
        options=(
            Option("model", "enum", "Pre-trained model to be attacked.", True, "vgg16", ("vgg16", "custom")),
            Option("custom_model_url", "str", "Git URL.", False, ""),
            Option("epsilon", "float", "Limit on the perturbation size.", True, 1.0),
            Option("hash", "str", "SHA-256.", True),
        ),
        creates_new_files=True,
        modifies_input_files=False,
        expected_filetype="zip",
        optional_filetypes=("jpg", "train.txt"),
        output_tags=({"name": "label", "type": "str"},),
        min_files=0,
        max_files=None,
        output_files=(),
        deterministic=False,
    )
    assert type(first.options[2].default) is float
    assert (second.options, second.output_tags, second.optional_filetypes) == ((), (), ())


def test_an_mlapi_manifest_may_have_more_fields(folder):
    manifest = read(write(folder, OWN))
    assert manifest.command == ("./run", "--fast")
    assert manifest.icon_url is None
    (function,) = manifest.functions
    assert [(option.minimum, option.maximum) for option in function.options[1:3]] == [(0, 9), (None, 3)]
    assert (function.min_files, function.max_files) == (2, 3)
    assert function.output_files == ("model.npz", "*.png")


def test_block_style_yaml_equals_json(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    assert read(write(folder, yaml.safe_dump(OWN))) == read(write(other, OWN))


@pytest.mark.parametrize(
    ("files", "bounds"), [(..., (1, None)), (None, (1, None)), ({}, (1, None)), ({"minimum": 0}, (0, None))]
)
def test_a_function_takes_one_file_or_more_by_default(folder, files, bounds):
    (function,) = read(write(folder, changed("functions.0.input_files", files))).functions
    assert (function.min_files, function.max_files) == bounds


@pytest.mark.parametrize("command", [..., None])
def test_without_a_command_main_py_is_run(folder, command):
    assert read(write(folder, changed("command", command))).command == ("python", "main.py")
    (folder / "main.py").unlink()
    assert errors_of(folder) == {"command": "Required, because the default main.py is missing."}
    (folder / "main.py").symlink_to("mlapi.yaml")
    assert "command" in errors_of(folder)


def test_with_a_command_main_py_is_not_needed(folder):
    (folder / "main.py").unlink()
    assert read(write(folder, OWN)).command == ("./run", "--fast")


@pytest.mark.parametrize("names", [[], ["mlsploit_module.yaml", "mlapi.yaml"]])
def test_there_must_be_exactly_one_manifest(folder, names):
    for name in names:
        write(folder, OWN, name)
    assert "Exactly one of mlsploit_module.yaml and mlapi.yaml is required" in errors_of(folder)[""]


def test_a_manifest_must_be_a_file(folder):
    (folder / "mlapi.yaml").mkdir()
    assert errors_of(folder) == {"": "mlapi.yaml must be a regular file."}
    (folder / "mlapi.yaml").rmdir()
    write(folder, OWN, "elsewhere")
    (folder / "mlapi.yaml").symlink_to("elsewhere")
    assert errors_of(folder) == {"": "mlapi.yaml must be a regular file."}
    (folder / "elsewhere").unlink()
    assert errors_of(folder) == {"": "mlapi.yaml must be a regular file."}
    (folder / "mlapi.yaml").unlink()
    os.mkfifo(folder / "mlapi.yaml")
    assert errors_of(folder) == {"": "mlapi.yaml must be a regular file."}


def test_mlapi_fields_are_unknown_in_an_mlsploit_manifest(folder):
    own = changed("functions.0.options.1.minimum", ...)
    errors = errors_of(write(folder, own, "mlsploit_module.yaml"))
    assert set(errors) == {
        "command",
        "functions.0.input_files",
        "functions.0.output_files",
        "functions.0.options.1.maximum",
        "functions.0.options.2.maximum",
    }
    assert set(errors.values()) == {"Unknown field."}


F, O = "functions.0", "functions.0.options"  # noqa: E741

WRONG = [
    ("display_name", ..., "Required"),
    ("display_name", None, "Must be a string."),
    ("display_name", "", "Shorter than minimum length 1"),
    ("display_name", "a" * 51, "Longer than maximum length 50"),
    ("display_name", "a\0", "NUL"),
    ("tagline", "a" * 51, "Longer than maximum length 50"),
    ("tagline", 5, "Must be a string."),
    ("doctxt", ..., "Required"),
    ("colour", "red", "Unknown field."),
    ("icon_url", "https://example.org/icon.PNG", "Must be an http"),
    ("icon_url", "https://example.org/icon.png?x", "Must be an http"),
    ("icon_url", "https://example.org/icon.png\n", "Must be an http"),
    ("icon_url", "https://localhost/icon.png", "Must be an http"),
    ("icon_url", "https://user@example.org/icon.png", "Must be an http"),
    ("icon_url", "ftp://example.org/icon.png", "Must be an http"),
    ("icon_url", "javascript:alert(1)//a.b/icon.png", "Must be an http"),
    ("icon_url", 'https://example.org/"<b>.png', "Must be an http"),
    ("icon_url", "https://example.org/" + "a" * 500 + ".png", "Longer than maximum length 500"),
    ("command", "python main.py", "Must be a list of 1 to 32 strings"),
    ("command", [], "Must be a list of 1 to 32 strings"),
    ("command", [""], "Must be a list of 1 to 32 strings of 1 to"),
    ("command", ["python", 1], "Must be a list of 1 to 32 strings"),
    ("command", ["a\0"], "Must be a list of 1 to 32 strings"),
    ("command", ["a"] * 33, "Must be a list of 1 to 32 strings"),
    ("functions", ..., "Required"),
    ("functions", None, "Must be a list of 1 to 200 functions."),
    ("functions", [], "Must be a list of 1 to 200 functions."),
    ("functions", {}, "Must be a list of 1 to 200 functions."),
    ("functions", [{}] * 201, "Must be a list of 1 to 200 functions."),
    (F, "train", "Must be an object."),
    (f"{F}.name", ..., "Required"),
    (f"{F}.name", "a" * 65, "Must be 1 to 64 of"),
    (f"{F}.name", "_a", "Must be 1 to 64 of"),
    (f"{F}.name", "a b", "Must be 1 to 64 of"),
    (f"{F}.name", "a\n", "Must be 1 to 64 of"),
    (f"{F}.name", "é", "Must be 1 to 64 of"),
    (f"{F}.doctxt", None, "Must be a string."),
    (f"{F}.creates_new_files", "yes", "Must be true or false."),
    (f"{F}.creates_new_files", ..., "Required"),
    (f"{F}.modifies_input_files", 1, "Must be true or false."),
    (f"{F}.expected_filetype", None, "Must be a string."),
    (f"{F}.expected_filetype", "a" * 51, "Longer than maximum length 50"),
    (f"{F}.optional_filetypes", "png", "Must be a list of 0 to 200 strings"),
    (f"{F}.optional_filetypes", [1], "Must be a list of 0 to 200 strings"),
    (f"{F}.output_tags", {}, "Must be a list."),
    (f"{F}.output_tags.0.type", "bool", '"bool" is not one of str, int, float'),
    (f"{F}.output_tags.0.name", "", "Shorter than minimum length 1"),
    (f"{F}.output_tags.0.default", 1, "Unknown field."),
    (f"{F}.output_tags.1.name", "role", "Duplicate name: role."),
    (f"{F}.input_files", [1, 2], "Must be an object."),
    (f"{F}.input_files.minimum", -1, "less than minimum value 0"),
    (f"{F}.input_files.minimum", True, "Must be an integer"),
    (f"{F}.input_files.maximum", 2**63, "Must be an integer"),
    (f"{F}.input_files", {"maximum": 0}, "The maximum must not be below the minimum."),
    (f"{F}.output_files", ["a/b"], "without folders"),
    (f"{F}.output_files", ["a\\b"], "without folders"),
    (f"{F}.output_files", [".."], "without folders"),
    (f"{F}.output_files", ["a\n"], "without folders"),
    (f"{F}.output_files", [""], "Must be a list of 0 to 200 strings of 1 to 255 characters."),
    (O, "rate", "Must be a list."),
    (O, [{"type": "int", "default": "x"}] * 201, "Must have at most 200 items."),
    (f"{O}.0", "rate", "Must be an object."),
    (f"{O}.0.name", "class room", "Must be an identifier"),
    (f"{O}.0.name", "a" * 51, "Longer than maximum length 50"),
    (f"{O}.0.name", "", "Must be an identifier"),
    (f"{O}.1.name", "rate", "Duplicate name: rate."),
    (f"{O}.0.type", "number", '"number" is not one of str, int, float, bool, enum'),
    (f"{O}.0.type", ["int"], "Must be a string."),
    (f"{O}.0.required", ..., "Required"),
    (f"{O}.0.required", "false", "Must be true or false."),
    (f"{O}.0.default", ..., "An option that is not required needs a default."),
    (f"{O}.0.default", None, "An option that is not required needs a default."),
    (f"{O}.0.default", "0.5", "Must be a finite number."),
    (f"{O}.0.default", True, "Must be a finite number."),
    (f"{O}.0.default", [1], "Must be a string, a number, or true or false."),
    (f"{O}.0.enum_values", ["a"], "Only an enum has values."),
    (f"{O}.1.default", 3.0, "Must be an integer of 64 bits."),
    (f"{O}.1.default", "3", "Must be an integer of 64 bits."),
    (f"{O}.1.default", 10, "Must be at most 9."),
    (f"{O}.1.default", 2**63, "Must be an integer of 64 bits."),
    (f"{O}.1.minimum", 0.5, "Must be an integer."),
    (f"{O}.1.minimum", "0", "Must be a finite number"),
    (f"{O}.1.minimum", -(2**63) - 1, "Must be a finite number"),
    (f"{O}.1.maximum", -1, "Must not be below the minimum."),
    (f"{O}.2.minimum", -1, "A length cannot be negative."),
    (f"{O}.2.default", "abcd", "Must have a length of at most 3."),
    (f"{O}.2.default", 1, "Must be a string."),
    (f"{O}.3.default", ..., "An enum needs a default."),
    (f"{O}.3.default", "b", "Must be one of a."),
    (f"{O}.3.enum_values", ..., "An enum needs values."),
    (f"{O}.3.enum_values", [], "Must be a list of 1 to 1000 strings"),
    (f"{O}.3.enum_values", [1], "Must be a list of 1 to 1000 strings"),
    (f"{O}.3.enum_values", "a", "Must be a list of 1 to 1000 strings"),
    (f"{O}.3.minimum", 1, "Only numbers and strings have bounds."),
    (f"{O}.4.maximum", 1, "Only numbers and strings have bounds."),
    (f"{O}.4.default", 0, "Must be true or false."),
    (f"{O}.4.default", "no", "Must be true or false."),
    (f"{O}.4.colour", 1, "Unknown field."),
]


@pytest.mark.parametrize(("path", "value", "text"), WRONG, ids=range(len(WRONG)))
def test_every_rule_has_an_error_that_names_its_field(folder, path, value, text):
    errors = errors_of(write(folder, changed(path, value)))
    assert list(errors) == [path]
    assert text in errors[path]


def test_a_default_must_be_within_the_bounds(folder):
    assert errors_of(write(folder, changed(f"{O}.0.minimum", 1))) == {f"{O}.0.default": "Must be at least 1."}


def test_all_errors_are_reported_at_once(folder):
    manifest = changed("tagline", 1)
    manifest["functions"].append({"name": "train", "doctxt": "", "options": [{"type": "enum", "default": 3}]})
    manifest["functions"][0]["options"][0] |= {"doctxt": 1, "default": "x", "maximum": 1, "minimum": 2}
    del manifest["command"]
    (folder / "main.py").unlink()
    assert errors_of(write(folder, manifest)) == {
        "tagline": "Must be a string.",
        "command": "Required, because the default main.py is missing.",
        "functions.0.options.0.doctxt": "Must be a string.",
        "functions.0.options.0.maximum": "Must not be below the minimum.",
        "functions.0.options.0.default": "Must be a finite number.",
        "functions.1.name": "Duplicate name: train.",
        "functions.1.creates_new_files": "Required",
        "functions.1.modifies_input_files": "Required",
        "functions.1.expected_filetype": "Required",
        "functions.1.options.0.name": "Required",
        "functions.1.options.0.doctxt": "Required",
        "functions.1.options.0.required": "Required",
        "functions.1.options.0.enum_values": "An enum needs values.",
    }


def test_the_message_of_the_exception_has_every_error(folder):
    with pytest.raises(BadManifest, match=r"^tagline: Must be a string\.$"):
        read(write(folder, changed("tagline", 1)))


CALLS = 200_000
"""Function calls that an invalid manifest may cost. The largest one allowed costs some 130000, a valid one 3000."""

HEAD = "display_name: a\ntagline: b\ndoctxt: c\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "aliases": (BOMB, "Line 1: Anchors and aliases are not supported."),
    "an alias": ("a: *b", "Anchors and aliases are not supported."),
    "an alias as a key": ("*a : 1", "Keys must be strings"),
    "an anchor": ("a: &x 1", "Anchors and aliases are not supported."),
    "an anchor on a key": ("&x a: 1", "Anchors and aliases are not supported."),
    "an anchor on a list": ("a: &x [1]", "Anchors and aliases are not supported."),
    "deep lists": ("[" * 100_000, "Nested deeper than 16 levels."),
    "deep lists, closed": ("[" * 100_000 + "]" * 100_000, "Nested deeper than 16 levels."),
    "deep mappings": ("{a: " * 60_000, "Nested deeper than 16 levels."),
    "deep blocks": ("- " * 100_000, "Nested deeper than 16 levels."),
    "deep keys": ("? " * 100_000, "Keys must be strings"),
    "deep lists in keys": ("[?" * 100_000, "Keys must be strings"),
    "an object of Python": ("!!python/object/apply:os.system ['true']", "Tags are not supported."),
    "a name of Python": ("a: !!python/name:os.system", "Tags are not supported."),
    "a tag of YAML": ("a: !!binary aGk=", "Tags are not supported."),
    "a tag of the author's": ("!x {a: 1}", "Tags are not supported."),
    "a tag that says nothing": ("a: ! b", "Tags are not supported."),
    "a key that comes twice": ("a: 1\nb: 2\na: 3", "Line 3: Duplicate key."),
    "a merge": ("<<: {a: 1}", "Merge keys are not supported."),
    "a merge of an alias": ("a: &x {b: 1}\n<<: *x", "Anchors and aliases are not supported."),
    "a list as a key": ("[a]: 1", "Keys must be strings"),
    "a number as a key": ("1: 1", "Keys must be strings"),
    "a bool as a key": ("yes: 1", "Keys must be strings"),
    "null as a key": ("~: 1", "Keys must be strings"),
    "two documents": ("a: 1\n---\nb: 2", "Only one document is allowed."),
    "many documents": ("---\n" * 50_000, "Only one document is allowed."),
    "10 MB": (b"#" * 10_000_000, "mlapi.yaml is larger than 262144 bytes."),
    "broken": ("a: [1", "invalid YAML"),
    "broken by a tab": ("a:\n\t- b", "Line 2: invalid YAML"),
    "a directive": ("%YAML 9.9\n---\na: 1", "invalid YAML"),
    "control characters": ("a: \x07", "Invalid YAML: the text has non-printable characters."),
    "not UTF-8": (b"a: \xff", "mlapi.yaml is not UTF-8"),
    "UTF-16": ("a: 1".encode("utf-16"), "mlapi.yaml is not UTF-8"),
    "half a surrogate pair": ('a: "\\ud800"', "invalid YAML"),
    "nothing": ("", "Must be an object."),
    "a comment": ("# a", "Must be an object."),
    "a string": ("a", "Must be an object."),
    "a list": ("[]", "Must be an object."),
    "many values": (f"{HEAD}functions: [{'1,' * 100_000}]", "has more than 6000 keys and values"),
    "infinity": ("a: .inf", "Line 1: .inf must be a finite decimal number, or a string in quotes."),
    "minus infinity": ("a: -.INF", "must be a finite decimal number"),
    "not a number": ("a: .nan", "must be a finite decimal number"),
    "too large a float": ("a: 1e999", "must be a finite decimal number"),
    "octal": ("a: 010", "Line 1: 010 must be a finite decimal number, or a string in quotes."),
    "hexadecimal": ("a: 0x10", "must be a finite decimal number"),
    "binary": ("a: 0b1", "must be a finite decimal number"),
    "base 60": ("a: 1:30", "must be a finite decimal number"),
    "base 60 with a fraction": ("a: 1:30.5", "must be a finite decimal number"),
    "underscores": ("a: 1_000", "must be a finite decimal number"),
}


@pytest.mark.parametrize(("text", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_an_error_after_little_work(folder, text, problem):
    write(folder, text)
    errors, calls = count_calls(lambda: errors_of(folder))
    assert calls < CALLS
    assert len(errors) < 10
    assert problem in next(iter(errors.values()))


def bytes_read():
    """The number of bytes that this process has read."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_manifest_over_the_limit_is_not_read_to_its_end(folder):
    write(folder, b"#" * 10_000_000)
    before = bytes_read()
    errors_of(folder)
    assert bytes_read() - before < 1_000_000


def test_errors_of_yaml_name_the_place(folder):
    text = f"{HEAD}functions:\n- name: a\n  options:\n  - name: b\n  - default: 010\n"
    assert list(errors_of(write(folder, text))) == ["functions.0.options.1.default"]
    text = f"{HEAD}functions:\n- name: a\n  name: b\n"
    assert list(errors_of(write(folder, text))) == ["functions.0.name"]


MANY = {
    "functions": HEAD + "functions:\n" + "- {}\n" * 2900,
    "functions that are none": HEAD + f"functions: [{'1,' * 5900}]",
    "200 functions": HEAD + "functions:\n" + "- {options: [{},{},{},{},{},{},{},{},{},{}]}\n" * 190,
    "options": HEAD + "functions:\n- options:\n" + "  - {}\n" * 2900,
    "200 options": HEAD + "functions:\n- options:\n" + "  - {type: enum, default: 1, a: 1, b: 1, c: 1}\n" * 200,
    "keys": "".join(f"k{number}: 1\n" for number in range(2900)),
    "values of an enum": HEAD + f"functions: [{{options: [{{type: enum, enum_values: [{'a,' * 5900}]}}]}}]",
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_a_manifest_with_thousands_of_errors_costs_little_work(folder, text):
    write(folder, text)
    errors, calls = count_calls(lambda: errors_of(folder))
    assert errors
    assert calls < CALLS


def test_no_further_function_is_validated_after_200_errors(folder):
    errors = errors_of(write(folder, MANY["200 functions"]))
    assert 200 < len(errors) < 300


def test_errors_are_short_whatever_the_size_of_the_input(folder):
    ((name, text),) = errors_of(write(folder, changed(f"{O}.0.type", "x" * 100_000))).items()
    assert len(text) <= 400
    ((name, text), *_) = errors_of(write(folder, {"k" * 100_000: 1})).items()
    assert len(name) <= 200


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2026-11-21", "2026-11-21"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
        ("0o17", "0o17"),
        ("'010'", "010"),
        ("'~'", "~"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
        ("1.2.3", "1.2.3"),
        ('"\\u00e9"', "é"),
    ],
)
def test_other_scalars_are_strings(folder, written, value):
    manifest = json.dumps(changed("doctxt", "DOCTXT")).replace('"DOCTXT"', written)
    assert read(write(folder, manifest)).doctxt == value


@pytest.mark.parametrize(
    ("written", "value"),
    [("1", 1.0), ("-0.5", -0.5), (".5", 0.5), ("1.", 1.0), ("1e-3", 0.001), ("+2E2", 200.0)],
)
def test_numbers_are_read_as_in_json_and_yaml(folder, written, value):
    manifest = json.dumps(changed(f"{O}.0.default", "DEFAULT")).replace('"DEFAULT"', written)
    default = read(write(folder, manifest)).functions[0].options[0].default
    assert default == value
    assert type(default) is float


def test_a_byte_order_mark_is_allowed(folder):
    assert read(write(folder, b"\xef\xbb\xbf" + json.dumps(OWN).encode())).display_name == "Robustness"
