"""The rule for names of users' files, beyond the cases in test_forms."""

import pytest

from mlapi.file_names import plain_name


def test_a_reserved_name_is_an_error_only_where_it_is_reserved():
    assert plain_name("input.json") == "input.json"
    assert plain_name("input.json", reserved="output.json") == "input.json"
    with pytest.raises(ValueError, match="reserved"):
        plain_name("input.json", reserved="input.json")
