import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sdlms.models.layers import layer_at
from sdlms.numerics.trends import slope_interval
from sdlms.scaling.joining import Series, joined
from sdlms.scaling.trends import COLUMNS, trend_row
from tests.scaling.small_runs import SIZES, captured, model_of, modular, sources


def series_of(work: Path, values: dict[str, float]) -> Series:
    """The activation fraction of models, the same in every layer."""
    runs = [captured(work, name, value=lambda _, own=own: own) for name, own in values.items()]
    found = joined(sources(*runs), [0.5], layer_at)
    return next(s for s in found if s.metric.name == "activation_fraction")


def test_a_trend_is_that_of_scipy(tmp_path: Path) -> None:
    values = {"small": 0.1, "medium": 0.3, "large": 0.2, "huge": 0.7}
    row = trend_row(series_of(tmp_path, values), 0)
    assert list(row) == COLUMNS
    sizes, heights = np.array([SIZES[name] for name in values]), list(values.values())
    assert row["spearman"] == pytest.approx(stats.spearmanr(sizes, heights).statistic)
    assert row["p_value"] == pytest.approx(8 / 24)  # of the orders of four
    slope = stats.linregress(np.log10(sizes), heights).slope
    assert row["slope_per_decade"] == pytest.approx(slope)
    assert float(str(row["slope_low"])) < slope < float(str(row["slope_high"]))
    assert (row["n_models"], row["n_missing"]) == (4, 0)
    assert row["reason"] == "4 models: the interval covers about 92%, not 95%"
    assert (row["smallest_model"], row["largest_model"]) == ("small", "huge")
    assert (row["value_of_smallest"], row["value_of_largest"]) == (0.1, 0.7)
    assert (row["value_least"], row["value_most"]) == (0.1, 0.7)


def test_missing_values_are_left_out_and_counted(tmp_path: Path) -> None:
    values = {"small": 0.1, "medium": math.nan, "large": 0.3, "huge": 0.4}
    row = trend_row(series_of(tmp_path, values), 0)
    without = trend_row(
        series_of(tmp_path / "w", {k: v for k, v in values.items() if k != "medium"}), 0
    )
    assert (row["n_models"], row["n_missing"]) == (3, 1)
    assert (row["spearman"], row["p_value"]) == (1, pytest.approx(1 / 3))
    assert row["reason"] == "3 models: the interval covers about 67%, not 95%"
    assert row == without | {"n_missing": 1}


def test_five_models_have_no_reason(tmp_path: Path) -> None:
    runs = [captured(tmp_path, name, value=lambda _, own=name: SIZES[own]) for name in SIZES]
    fifth = model_of("small", name="tiny", n_parameters=100_000)
    runs.append(captured(tmp_path, "small", model=fifth, value=lambda _: 7))
    found = joined(sources(*runs), [0.5], layer_at)
    row = next(trend_row(s, 0) for s in found if s.metric.name == "activation_fraction")
    assert (row["n_models"], row["reason"]) == (5, "")


def test_two_sizes_have_a_slope_and_no_interval(tmp_path: Path) -> None:
    row = trend_row(series_of(tmp_path, {"small": 0.1, "large": 0.5}), 0)
    assert row["slope_per_decade"] == pytest.approx(0.2)
    for name in ("spearman", "p_value", "slope_low", "slope_high"):
        assert math.isnan(float(str(row[name])))
    assert row["reason"] == "2 model sizes, fewer than 3"
    values = {"small": 0.1, "medium": math.nan, "large": math.nan}
    row = trend_row(series_of(tmp_path, values), 0)
    assert math.isnan(float(str(row["slope_per_decade"])))
    assert (row["reason"], row["n_models"]) == ("1 model size, fewer than 3", 1)


def test_models_of_one_size_are_one_size(tmp_path: Path) -> None:
    runs = [
        *(captured(tmp_path, "small", model=model_of("small", name=name)) for name in "ab"),
        captured(tmp_path, "medium"),
    ]
    (series, *_) = joined(sources(*runs), [0.5], layer_at)
    assert trend_row(series, 0)["reason"] == "2 model sizes, fewer than 3"


def test_no_value_and_no_spread_have_their_reasons(tmp_path: Path) -> None:
    runs = [modular(tmp_path, name) for name in ("small", "medium", "large")]
    found = joined(sources(*runs), [0.5], layer_at)
    rows = {s.metric.name: trend_row(s, 0) for s in found if (s.task, s.depth) == ("qa", 0.5)}
    empty = rows["z_Q"]
    assert (empty["n_models"], empty["n_missing"]) == (0, 3)
    assert (empty["reason"], empty["smallest_model"]) == ("no model has a value", "")
    assert math.isnan(float(str(empty["value_most"])))
    same = rows["Q"]
    assert (same["reason"], same["slope_per_decade"]) == ("the same value in all models", 0)
    assert math.isnan(float(str(same["spearman"])))
    assert (same["slope_low"], same["slope_high"]) == (0, 0)


def test_the_interval_is_that_of_the_seed(tmp_path: Path) -> None:
    values = {"small": 0.1, "medium": 0.3, "large": 0.2, "huge": 0.7}
    row = trend_row(series_of(tmp_path, values), 5)
    sizes = np.array([SIZES[name] for name in values])
    expected = slope_interval(sizes, np.array(list(values.values())), seed=5)
    assert (row["slope_low"], row["slope_high"]) == expected
