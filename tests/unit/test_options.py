"""Options: validation of arguments by type and bounds, with all errors together."""

import math

import pytest

from mlapi.errors import FieldError, Invalid
from mlapi.models.options import Option, check_arguments

TEXT = Option("text", "str", minimum=1, maximum=3)
COUNT = Option("count", "int", minimum=1, maximum=10)
RATE = Option("rate", "float", minimum=0, maximum=1.5)
MODEL = Option("model", "enum", enum_values=("vgg16", "custom"), default="vgg16")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (TEXT, "a"),
        (TEXT, "€€€"),
        (Option("text", "str"), ""),
        (COUNT, 1),
        (COUNT, 10),
        (Option("n", "int"), -(2**63)),
        (Option("n", "int"), 2**63 - 1),
        (RATE, 0),
        (RATE, 1),
        (RATE, 1.5),
        (Option("x", "float"), 1e308),
        (Option("b", "bool"), False),
        (MODEL, "custom"),
    ],
)
def test_a_value_of_the_exact_type_within_bounds_is_valid(option, value):
    assert option.problem_with(value) is None


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        (TEXT, 1, "Must be a string."),
        (TEXT, None, "Must be a string."),
        (TEXT, True, "Must be a string."),
        (TEXT, "", "Must have a length of at least 1."),
        (TEXT, "abcd", "Must have a length of at most 3."),
        (TEXT, "a\0", "Must not contain NUL or lone surrogates."),
        (TEXT, "\ud800", "Must not contain NUL or lone surrogates."),
        (COUNT, "3", "Must be an integer of 64 bits."),
        (COUNT, 3.0, "Must be an integer of 64 bits."),
        (COUNT, True, "Must be an integer of 64 bits."),
        (COUNT, [], "Must be an integer of 64 bits."),
        (COUNT, 2**63, "Must be an integer of 64 bits."),
        (COUNT, -(2**63) - 1, "Must be an integer of 64 bits."),
        (COUNT, 0, "Must be at least 1."),
        (COUNT, 11, "Must be at most 10."),
        (RATE, "1.0", "Must be a finite number."),
        (RATE, False, "Must be a finite number."),
        (RATE, math.nan, "Must be a finite number."),
        (RATE, math.inf, "Must be a finite number."),
        (RATE, 10**400, "Must be a finite number."),
        (RATE, -0.1, "Must be at least 0."),
        (RATE, 2, "Must be at most 1.5."),
        (Option("b", "bool"), 1, "Must be true or false."),
        (Option("b", "bool"), "true", "Must be true or false."),
        (Option("b", "bool"), None, "Must be true or false."),
        (MODEL, "resnet", "Must be one of vgg16, custom."),
        (MODEL, True, "Must be one of the values of the enum."),
        (MODEL, {}, "Must be one of the values of the enum."),
    ],
)
def test_other_values_are_rejected_with_a_reason(option, value, text):
    assert option.problem_with(value) == text


@pytest.mark.parametrize(
    "option",
    [TEXT, COUNT, RATE, MODEL, Option("b", "bool", "Words.", required=True, default=False)],
    ids=lambda option: option.name,
)
def test_an_option_can_be_restored_from_json(option):
    assert Option.from_json(option.as_json()) == option


def test_json_omits_null_fields():
    assert Option("n", "int").as_json() == {"name": "n", "type": "int", "doctxt": "", "required": False}
    assert MODEL.as_json()["enum_values"] == ["vgg16", "custom"]
    assert Option("b", "bool", default=False).as_json()["default"] is False


def test_arguments_are_in_the_order_of_the_options_with_defaults_filled_in():
    options = [Option("b", "bool", default=False), MODEL, Option("text", "str", required=True)]
    arguments = check_arguments(options, {"text": "x", "model": "custom"})
    assert list(arguments.items()) == [("b", False), ("model", "custom"), ("text", "x")]


def test_null_is_like_a_missing_argument():
    options = [MODEL, Option("seed", "int")]
    assert check_arguments(options, {"model": None, "seed": None}) == {"model": "vgg16"}


@pytest.mark.parametrize("arguments", [{}, {"text": None}])
def test_a_required_option_without_default_must_have_a_value(arguments):
    with pytest.raises(Invalid) as caught:
        check_arguments([Option("text", "str", required=True)], arguments)
    assert caught.value.errors == [FieldError("arguments.text", "Required.")]


def test_a_required_option_with_a_default_is_filled_in():
    assert check_arguments([Option("n", "int", required=True, default=0)], {"n": None}) == {"n": 0}


@pytest.mark.parametrize("arguments", [{"rate": 1}, {}])
def test_an_integer_for_a_float_is_stored_as_a_float(arguments):
    kept = check_arguments([Option("rate", "float", default=1)], arguments)["rate"]
    assert kept == 1.0
    assert type(kept) is float


def test_the_passed_arguments_are_not_modified():
    given = {"rate": 1}
    check_arguments([RATE, MODEL], given)
    assert given == {"rate": 1}


def test_all_errors_are_reported_together():
    with pytest.raises(Invalid) as caught:
        check_arguments([COUNT, Option("text", "str", required=True)], {"colour": 1, "count": 0}, prefix="tasks.0")
    assert caught.value.errors == [
        FieldError("tasks.0.colour", "Unknown option. The options are count, text."),
        FieldError("tasks.0.count", "Must be at least 1."),
        FieldError("tasks.0.text", "Required."),
    ]


def test_a_function_without_options_accepts_no_arguments():
    assert check_arguments([], {}) == {}
    with pytest.raises(Invalid) as caught:
        check_arguments([], {"x": None})
    assert caught.value.errors == [FieldError("arguments.x", "Unknown option. The function has no options.")]


def test_the_error_of_an_unknown_argument_lists_few_options():
    many = [Option(f"o{number}", "int") for number in range(12)]
    with pytest.raises(Invalid) as caught:
        check_arguments(many, {"x": 1})
    listed = ", ".join(f"o{number}" for number in range(10))
    assert caught.value.errors == [FieldError("arguments.x", f"Unknown option. The options are {listed} and 2 more.")]
