"""Cells fill exactly the columns, and are empty where nothing was measured."""

import pytest

from sdlms.dynamic.critical import Critical
from sdlms.dynamic.estimates import Estimate, Quality
from sdlms.dynamic.gains import Gain
from sdlms.dynamic.limits import Savings
from sdlms.dynamic.tables import (
    COLUMNS,
    CRITICAL_COLUMNS,
    KEYS,
    SAVINGS,
    TIMED,
    Speed,
    Spread,
    critical_cells,
    quality_cells,
    savings_cells,
    speed_cells,
)

QUALITY = Quality(
    Estimate(9.0, 8.0, 10.0, 0.5), Estimate(1.1, 1.0, 1.2, 0.1), Estimate(0.9, 0.8, 1.0, 0.2),
    100, 7, "one reason",
)  # fmt: skip
SAVED = Savings(0.2, 0.5, 0.1, 0.4, 1 / 0.8, 1 / 0.5)
NOTHING_SAVED = Savings(0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
OWN, MLP = Gain(10.0, 9.0, 1.5, 1.2, 1.25), Gain(20.0, 19.0, 2.4, 1.5, 1.6)
SPEED = Speed(OWN, MLP, 6.5, 0.3, None)


@pytest.mark.parametrize("quality", [QUALITY, None])
@pytest.mark.parametrize("speed", [SPEED, None])
def test_cells_and_keys_are_the_columns(quality: Quality | None, speed: Speed | None) -> None:
    cells = [quality_cells(quality), savings_cells(Spread(0.3), SAVED), speed_cells(speed, SAVED)]
    names = [*KEYS, *(name for part in cells for name in part)]
    assert sorted(names) == sorted(COLUMNS) and len(set(names)) == len(names)
    assert set(critical_cells(Critical(0.5, 0.4, 0.6, 0.1, 0.3, ""), 0.2)) < set(CRITICAL_COLUMNS)


def test_each_number_is_where_its_name_is() -> None:
    row = quality_cells(QUALITY)
    names = ("perplexity", "perplexity_std", "perplexity_low", "perplexity_high")
    assert [row[name] for name in names] == [9.0, 0.5, 8.0, 10.0]
    assert (row["quality_delta"], row["perplexity_ratio"], row["reason"]) == (
        0.9,
        1.1,
        "one reason",
    )
    assert (row["n_tokens"], row["n_documents"]) == (100, 7)
    row = savings_cells(Spread(0.3, 0.01), SAVED)
    assert [row[name] for name in SAVINGS] == [0.2, 0.5, 0.1, 0.4, 1 / 0.8, 2.0]
    assert (row["kept_fraction"], row["kept_fraction_std"]) == (0.3, 0.01)
    row = critical_cells(Critical(0.5, 0.4, 0.6, 0.1, 0.3, "why"), 0.2)
    assert list(row.values()) == [0.5, 0.4, 0.6, 0.1, 0.3, 0.2, "why"]


def test_a_share_of_the_limit_is_the_gain_of_sparsity_over_it() -> None:
    row = speed_cells(SPEED, SAVED)
    assert row["limit_share"] == pytest.approx(1.25 * 0.8)
    assert row["limit_share_mlp"] == pytest.approx(1.6 / 2)
    assert (row["speedup"], row["speedup_mlp"], row["dense_tokens_per_sec"]) == (1.5, 2.4, 6.5)


def test_where_nothing_is_saved_there_is_no_share() -> None:
    row = speed_cells(SPEED, NOTHING_SAVED)
    assert row["limit_share"] is row["limit_share_mlp"] is None
    assert row["sparsity_gain"] == 1.25


def test_what_was_not_measured_is_empty() -> None:
    assert set(quality_cells(None).values()) == {None, ""}
    assert set(speed_cells(None, SAVED)) == set(TIMED)
    assert set(speed_cells(None, SAVED).values()) == {None}
    without = speed_cells(SPEED._replace(mlp=None), SAVED)
    assert {name for name, cell in without.items() if cell is None} == {
        *(name for name in TIMED if name.endswith("_mlp")), "speedup_std",
    }  # fmt: skip
