"""Optional libraries are looked for, not tried."""

import sys

import pytest

from sdlms.errors import UserError
from sdlms.storage.extras import require


def test_a_library_that_is_there_passes_and_is_not_imported() -> None:
    sys.modules.pop("this", None)
    require("this", "zen", "here")
    assert "this" not in sys.modules


def test_a_missing_library_is_named_with_the_command() -> None:
    with pytest.raises(UserError) as error:
        require("no_such_library", "datasets", "a.parquet")
    assert str(error.value) == (
        "a.parquet: needs the library 'no_such_library'. Install it: pip install 'sdlms[datasets]'"
    )
