import math

import numpy as np
import pytest

from sdlms.structure.control_table import NONE, SHUFFLED, Level, control_rows, mean_level
from sdlms.structure.tables import CONTROL_COLUMNS, MEAN


def level(value: float, seed: int, spread: float = 0.01) -> Level:
    draws = value + spread * np.random.default_rng(seed).normal(size=1000)
    return Level(value, draws, 10, firing_rate=value / 10, significant_fraction=1.0)


def test_each_layer_and_then_all_of_them_are_told_with_each_control() -> None:
    levels = {
        NONE: {1: level(0.3, 0), 2: level(0.5, 1)},
        SHUFFLED: {1: level(0, 2), 2: level(0, 3)},
    }
    rows = list(control_rows(levels))
    assert all(set(row) == set(CONTROL_COLUMNS) for row in rows)
    found = [(row["layer"], row["control"]) for row in rows]
    assert found == [(n, control) for n in (1, 2, MEAN) for control in (NONE, SHUFFLED)]
    assert rows[4]["SI_adjusted"] == pytest.approx(0.4)
    assert rows[4]["units_scored"] == 20
    assert rows[4]["firing_rate"] == pytest.approx(0.04)
    assert [list(row) for row in rows] == 6 * [CONTROL_COLUMNS]


def test_the_interval_holds_the_draws() -> None:
    row = level(0.3, 0).row(1, NONE)
    low, high = float(str(row["SI_adjusted_low"])), float(str(row["SI_adjusted_high"]))
    assert low == pytest.approx(0.3 - 1.96 * 0.01, abs=0.003)
    assert high == pytest.approx(0.3 + 1.96 * 0.01, abs=0.003)


def test_a_mean_over_layers_that_move_together_is_as_uncertain_as_each() -> None:
    together = mean_level([level(0.3, 0), level(0.5, 0)])
    apart = mean_level([level(0.3, 0), level(0.5, 1)])
    assert together.draws.std() == pytest.approx(0.01, rel=0.1)
    assert apart.draws.std() == pytest.approx(0.01 / math.sqrt(2), rel=0.1)


def test_a_layer_that_says_nothing_leaves_the_mean_unknown() -> None:
    unknown = Level(math.nan, np.full(1000, math.nan), 0, math.nan, math.nan)
    row = mean_level([level(0.3, 0), unknown]).row(MEAN, NONE)
    for column in ("SI_adjusted", "SI_adjusted_low", "SI_adjusted_high"):
        assert math.isnan(float(str(row[column])))
    assert mean_level([]).units_scored == 0
