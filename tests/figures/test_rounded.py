"""Tables as people read them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.figures.rounded import rounded, rounded_rows
from sdlms.storage.tables import Cell
from tests.figures.table_runs import table_run


def rows_of(artifacts: Path, row: dict[str, Cell]) -> dict[str, Cell]:
    """The only row of a table, rounded."""
    (found,) = rounded_rows(table_run(artifacts, "probe", {"t.csv": [row]}), "t.csv", "probe")
    return found


def test_an_interval_stands_beside_its_value(tmp_path: Path) -> None:
    found = rows_of(tmp_path, {"a": 1, "b": 0.12345, "b_low": 0.1, "b_high": 0.2, "c": "x"})
    assert found == {"a": 1, "b": "0.123 [0.1, 0.2]", "c": "x"}


def test_a_standard_error_becomes_an_interval(tmp_path: Path) -> None:
    assert rows_of(tmp_path, {"b": 2.0, "b_se": 0.5}) == {"b": "2 [1.02, 2.98]"}


def test_ends_of_another_name_belong_to_the_column_before(tmp_path: Path) -> None:
    row = {"value": 1.5, "low": 1.0, "high": 2.0, "slope_per": 3.0, "slope_low": 2, "slope_high": 4}
    assert rows_of(tmp_path, row) == {"value": "1.5 [1, 2]", "slope_per": "3 [2, 4]"}


def test_ends_may_stand_far_from_their_value(tmp_path: Path) -> None:
    row = {"SI": 0.5, "Q": 0.25, "SI_low": 0.4, "SI_high": 0.6}
    assert rows_of(tmp_path, row) == {"SI": "0.5 [0.4, 0.6]", "Q": 0.25}


@pytest.mark.parametrize("lacking", [float("nan"), None])
def test_a_value_without_an_interval_stands_alone(tmp_path: Path, lacking: float | None) -> None:
    row = {"b": 0.98765, "b_low": 0.9, "b_high": lacking, "c": 5, "c_se": lacking}
    assert rows_of(tmp_path, row) == {"b": 0.988, "c": 5}


def test_cells_are_what_they_are(tmp_path: Path) -> None:
    row: dict[str, Cell] = {"n": -12345678, "x": 12345.678, "none": None, "text": "0.5 of it"}
    assert rows_of(tmp_path, row) == {"n": -12345678, "x": 12300.0, "none": "", "text": "0.5 of it"}


def test_a_table_that_lacks_is_named(tmp_path: Path) -> None:
    run = table_run(tmp_path, "probe", {"t.csv": [{"a": 1}]})
    with pytest.raises(UserError, match=r"holds no other\.csv; a run of sae-train is needed"):
        rounded_rows(run, "other.csv", "sae-train")


@given(st.floats(1e-8, 1e8) | st.floats(-1e8, -1e-8))
def test_three_digits_are_kept(number: float) -> None:
    shown = rounded(number)
    assert float(shown.replace(",", "")) == pytest.approx(number, rel=5.001e-3)
    assert re.fullmatch(r"-?[\d.,]+(e[-+]\d+)?", shown)
    assert rounded(1234567.8) == "1,234,568"
