import math
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.models.layers import layer_at
from sdlms.scaling.joining import COLUMNS, MEAN, MODEL, Row, Series, depths_of, joined
from sdlms.storage.tables import Cell
from tests.scaling.gated_runs import gated
from tests.scaling.small_runs import captured, model_of, modular, sources, trained

QUARTERS = [0.25, 0.5, 0.75]


def of(series: list[Series], metric: str, task: str) -> dict[float | str, Series]:
    """One quantity by depth."""
    return {s.depth: s for s in series if (s.metric.name, s.task) == (metric, task)}


def points(series: Series) -> list[tuple[str, int | None, float]]:
    """Model, layer and value."""
    return [(p.source.model, p.layer, p.value) for p in series.points]


def test_layers_are_joined_at_relative_depth(tmp_path: Path) -> None:
    """Of 3, 4 and 6 layers; layer 2 of 3 is both at 50 % and at 75 %."""
    runs = [captured(tmp_path, name) for name in ("large", "small", "medium")]
    found = of(joined(sources(*runs), QUARTERS, layer_at), "activation_fraction", "qa")
    assert list(found) == [0.25, 0.5, 0.75, MEAN]
    value = pytest.approx
    assert points(found[0.25]) == [
        ("small", 1, value(0.2)),
        ("medium", 1, value(0.2)),
        ("large", 2, value(0.3)),
    ]
    assert [point[1] for point in points(found[0.5])] == [2, 2, 3]
    assert [point[1] for point in points(found[0.75])] == [2, 3, 5]
    assert points(found[MEAN]) == [
        ("small", None, value((0.2 + 0.3 + 0.3) / 3)),
        ("medium", None, value((0.2 + 0.3 + 0.4) / 3)),
        ("large", None, value((0.3 + 0.4 + 0.6) / 3)),
    ]


def test_runs_of_all_layers_are_joined_at_the_depths_that_are_asked_for(tmp_path: Path) -> None:
    runs = sources(*(modular(tmp_path, name) for name in ("small", "large")))
    found = of(joined(runs, [0.0, 1.0], layer_at), "SI", "all")
    assert [point[1] for point in points(found[0.0])] == [0, 0]
    assert [point[1] for point in points(found[1.0])] == [2, 5]
    assert depths_of(runs[1], [0.1, 0.5], layer_at) == {0.1: 1, 0.5: 3}


def test_a_mean_is_over_the_depths_that_all_models_have(tmp_path: Path) -> None:
    runs = [captured(tmp_path, "medium", layers=[1, 3]), captured(tmp_path, "large")]
    found = of(joined(sources(*runs), QUARTERS, layer_at), "activation_fraction", "qa")
    assert [len(found[depth].points) for depth in QUARTERS] == [2, 1, 2]
    assert [point[2] for point in points(found[MEAN])] == pytest.approx([0.3, 0.45])
    runs = [captured(tmp_path, "medium", layers=[1]), captured(tmp_path, "large", layers=[5])]
    found = of(joined(sources(*runs), QUARTERS, layer_at), "activation_fraction", "qa")
    assert list(found) == [0.25, 0.75]  # no depth in common, so no mean


def test_what_could_not_be_measured_has_no_mean(tmp_path: Path) -> None:
    def change(row: dict[str, Cell]) -> dict[str, Cell]:
        return {**row, "Q": math.nan if row["layer"] == 2 else row["Q"]}

    runs = [modular(tmp_path, "medium", change=change), modular(tmp_path, "large")]
    found = of(joined(sources(*runs), QUARTERS, layer_at), "Q", "math")
    assert [math.isnan(p.value) for p in found[0.5].points] == [True, False]
    assert [math.isnan(p.value) for p in found[0.25].points] == [False, False]
    assert [math.isnan(p.value) for p in found[MEAN].points] == [True, False]


def test_a_run_without_a_layer_there_is_refused(tmp_path: Path) -> None:
    runs = [captured(tmp_path, "small"), captured(tmp_path, "large", layers=[0, 1])]
    with pytest.raises(UserError, match=r"has layers 0, 1 of 6, none .* of 0\.25, 0\.5, 0\.75\."):
        joined(sources(*runs), QUARTERS, layer_at)


def test_rows_say_all_and_their_order_is_not_that_of_the_runs(tmp_path: Path) -> None:
    runs = [
        *(modular(tmp_path, name) for name in ("small", "medium")),
        *(trained(tmp_path, name) for name in ("small", "medium")),
        *(captured(tmp_path, name) for name in ("small", "medium")),
    ]
    series = joined(sources(*runs), QUARTERS, layer_at)
    rows: list[Row] = [row for each in series for row in each.rows()]
    assert all(list(row) == COLUMNS for row in rows)
    assert list(dict.fromkeys(row["stage"] for row in rows)) == [
        "capture",
        "sae-train",
        "si-modularity",
    ]
    again = joined(sources(*runs[::-1]), QUARTERS, layer_at)
    assert str([row for each in again for row in each.rows()]) == str(rows)
    row = next(row for row in rows if row["metric"] == "fvu" and row["relative_depth"] == 0.75)
    run = runs[2]
    assert row == {
        "stage": "sae-train",
        "site": "resid_post",
        "kind": "latent",
        "task": "all",
        "metric": "fvu",
        "unit": "ratio",
        "relative_depth": 0.75,
        "model": "small",
        "n_parameters": 1_000_000,
        "n_layers": 3,
        "layer": 2,
        "value": 0.2,
        "low": 0.1,
        "high": 0.4,
        "control": "none",
        "run": run.name,
    }


def test_models_of_one_size_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    runs = [
        captured(tmp_path, "small", model=model_of("small", name=name)) for name in ("b", "a", "c")
    ]
    found = of(joined(sources(*runs), QUARTERS, layer_at), "firing_rate", "qa")
    assert [point[0] for point in points(found[MEAN])] == ["a", "b", "c"]


def test_what_belongs_to_no_layer_is_joined_as_the_models_own(tmp_path: Path) -> None:
    """Critical sparsity is measured of the model and of layers; perplexity of the model alone."""
    runs = [
        gated(tmp_path, n, rules=["input"], critical=c) for n, c in (("small", 0.4), ("large", 0.6))
    ]
    series = joined(sources(*runs), QUARTERS, layer_at)
    found = of(series, "critical_sparsity", "all")
    assert list(found) == [0.25, 0.5, 0.75, MEAN, MODEL]
    assert points(found[MODEL]) == [("small", None, 0.4), ("large", None, 0.6)]
    assert points(found[MEAN]) == [("small", None, 0.5), ("large", None, pytest.approx(0.7))]
    assert [layer for _, layer, _ in points(found[0.5])] == [2, 3]
    (low, high) = found[MODEL].points[0][3:]
    assert (low, high) == pytest.approx((0.35, 0.42))
    assert list(of(series, "critical_sparsity", "qa")) == [MODEL]
    ratios = [s for s in series if (s.metric.name, s.task) == ("perplexity_ratio", "math")]
    assert [(s.subject.kind, s.depth) for s in ratios] == [
        ("input:0.3", MODEL),
        ("input:1.0", MODEL),
    ]
    row = next(ratios[0].rows())
    assert (row["site"], row["kind"], row["layer"]) == ("mlp", "input:0.3", None)
    assert (row["relative_depth"], row["value"]) == ("model", pytest.approx(1.035))


def test_a_run_of_whole_models_needs_no_layer(tmp_path: Path) -> None:
    runs = sources(*(gated(tmp_path, name, measure="speed") for name in ("small", "large")))
    assert depths_of(runs[0], [0.5], layer_at) == {}
    assert {series.depth for series in joined(runs, [0.5], layer_at)} == {MODEL}
