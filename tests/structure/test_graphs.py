import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from sdlms.runs.parts import Part, Parts
from sdlms.structure import graphs
from sdlms.structure.communities import find_communities, louvain_library
from sdlms.structure.graphs import GraphSettings, LayerGraphs, draws_left, layer_graphs
from sdlms.structure.nulls import graph_of
from tests.structure.firing_data import (
    TASK_DOCUMENTS,
    TASKS,
    firings_of,
    independent_units,
    planted_modules,
)

LIBRARY = louvain_library()
SETTINGS = GraphSettings(nulls=3, top_edges=0, seed=0, library=LIBRARY)
POOLED = {
    *("Q_pooled", "Q_pooled_null_mean", "Q_pooled_null_sd", "n_edges_pooled"),
    *("n_significant_edges_pooled", "n_significant_pooled_null_mean", "n_communities_pooled"),
}


def found_in(
    folder: Path,
    firing: np.ndarray,
    settings: GraphSettings = SETTINGS,
    task_documents: tuple[int, ...] = TASK_DOCUMENTS,
    advance: Callable[[int], None] = lambda n: None,
) -> LayerGraphs:
    """What `layer_graphs` finds in a layer."""
    firings = firings_of(folder, firing, task_documents)
    return layer_graphs(firings, settings, Parts(folder / "parts"), "layer_3", advance)


@pytest.mark.parametrize("raised", [1, 5], ids=["alone", "with topics"])
def test_planted_modules_are_found(tmp_path: Path, raised: float) -> None:
    firing, modules = planted_modules(0, raised=raised)
    found = found_in(tmp_path, firing, SETTINGS._replace(nulls=8))
    planted = modules >= 0
    assert adjusted_rand_score(modules[planted], found.communities[planted]) >= 0.9
    for module in range(8):
        labels = found.communities[modules == module]
        assert (labels == np.bincount(labels).argmax()).mean() > 0.9
    row = found.rows["all"]
    assert float(row["z_Q"]) > 10
    assert float(row["z_Q_rewired"]) > 10
    assert row["n_edges_matched"] == row["n_edges"] == row["n_significant_edges"]
    assert int(row["n_significant_edges"]) > 20 * float(row["n_significant_null_mean"])


@pytest.mark.parametrize("raised", [1, 5], ids=["alone", "with topics"])
def test_independent_units_are_not_compared(tmp_path: Path, raised: float) -> None:
    row = found_in(tmp_path, independent_units(1, raised=raised)).rows["all"]
    assert int(row["n_edges"]) == int(row["n_significant_edges"]) < 25
    assert float(row["n_significant_null_mean"]) < 25
    assert math.isnan(float(row["z_Q"]))
    assert str(row["Q_reason"]).startswith("fewer than 50 edges")
    assert float(row["Q"]) > 0.5  # which any sparse graph has


def test_clearest_structure_is_compared(tmp_path: Path) -> None:
    """Units that seldom fire together by chance: null graphs have fewer edges."""
    generator = np.random.default_rng(0)
    signals = generator.random((200 * 40, 8)) < 0.034
    firing = np.repeat(signals, 12, axis=1) & (generator.random((200 * 40, 96)) < 0.8)
    row = found_in(tmp_path, firing, task_documents=(150, 50)).rows["all"]
    assert row["n_edges"] == 8 * 66
    assert 50 <= int(row["n_edges_matched"]) < 8 * 66
    assert float(row["z_Q"]) > 10


def test_rows_hold_all_columns_for_all_and_for_each_task(tmp_path: Path) -> None:
    found = found_in(tmp_path, planted_modules(1)[0])
    assert list(found.rows) == ["all", *TASKS]
    assert set(found.rows["all"]) - set(found.rows["code"]) == POOLED
    assert all(set(found.rows[task]) == set(found.rows["code"]) for task in TASKS)
    graph = graph_of(found.edges, len(found.units))
    own = find_communities(graph, 0, LIBRARY)
    assert found.rows["all"]["Q"] == own.modularity
    assert found.rows["all"]["n_edges"] == len(found.edges.first)
    assert (found.communities == own.labels).all()
    assert (found.communities[np.unique(graph.first)] >= 0).all()
    assert (found.edges.evidence >= 4).all()
    assert (found.units == np.arange(len(found.units)) * 2 + 1).all()


def test_the_sweep_tells_modularity_at_one(tmp_path: Path) -> None:
    found = found_in(tmp_path, planted_modules(0)[0], SETTINGS._replace(nulls=0))
    assert [(row["task"], row["resolution"]) for row in found.resolutions] == [
        (task, resolution) for task in ("all", *TASKS) for resolution in (0.5, 1.0, 2.0)
    ]
    low, one, high = found.resolutions[:3]
    assert one["Q"] == found.rows["all"]["Q_best"]
    assert one["agreement"] == 1
    assert one["n_communities"] == found.rows["all"]["n_communities"]
    assert float(high["Q"]) <= float(one["Q"])
    assert int(low["n_communities"]) <= int(one["n_communities"]) <= int(high["n_communities"])


def test_top_edges_takes_as_many_significant_or_not(tmp_path: Path) -> None:
    firing = independent_units(0)
    row = found_in(tmp_path, firing, SETTINGS._replace(top_edges=200)).rows["all"]
    assert row["n_edges"] == row["n_edges_pooled"] == 200
    assert int(row["n_significant_edges"]) < 200 < int(row["n_significant_edges_pooled"])
    assert row["n_edges_matched"] == 200
    assert row["edge_density"] == pytest.approx(200 / (160 * 159 / 2))
    assert row["warning"] == ""


def test_too_many_significant_edges_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST_EDGES", 40)
    row = found_in(tmp_path, planted_modules(0)[0], SETTINGS._replace(nulls=0)).rows["all"]
    assert row["n_edges"] == 40
    assert int(row["n_significant_edges"]) > 400
    told = f"graph capped: 40 of {int(row['n_significant_edges']):,} significant edges"
    assert str(row["warning"]).startswith(told)


class Killed(Exception):
    """As kill -9, but between two parts."""


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    firing = planted_modules(2)[0]
    steps: list[int] = []
    whole = found_in(tmp_path / "whole", firing, advance=steps.append)
    assert steps == [1] * 6

    def kill(n: int) -> None:
        steps.append(n)
        if len(steps) == 3:
            raise Killed

    steps.clear()
    with pytest.raises(Killed):
        found_in(tmp_path / "killed", firing, advance=kill)
    steps.clear()
    again = found_in(tmp_path / "killed", firing, advance=steps.append)
    assert steps == [1] * 6
    assert repr(again.rows) == repr(whole.rows)
    assert repr(again.resolutions) == repr(whole.resolutions)
    assert (again.communities == whole.communities).all()
    for one, other in zip(again.edges, whole.edges, strict=True):
        assert one.dtype == other.dtype
        assert (one == other).all()


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firing = planted_modules(2)[0]
    first = found_in(tmp_path, firing)

    def never(*_: object) -> Part:
        raise AssertionError

    for name in ("joint_counts", "shifted_draw", "rewired_draw"):
        monkeypatch.setattr(graphs, name, never)
    assert repr(found_in(tmp_path, firing).rows) == repr(first.rows)


def test_the_seed_decides(tmp_path: Path) -> None:
    firing = independent_units(0)
    rows = [
        found_in(tmp_path / f"{n}", firing, SETTINGS._replace(seed=seed)).rows["all"]
        for n, seed in enumerate((1, 1, 2))
    ]
    assert rows[0] == rows[1]
    assert rows[0]["Q_null_mean"] != rows[2]["Q_null_mean"]
    assert rows[0]["Q_rewired_mean"] != rows[2]["Q_rewired_mean"]


def test_the_time_of_the_nulls_is_told_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    with caplog.at_level(logging.INFO, "sdlms"):
        found_in(
            tmp_path,
            planted_modules(0)[0],
            SETTINGS._replace(foretold=12),
            advance=lambda n: told.append(len(caplog.messages)),
        )
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("12 draws of both graph nulls, about ")
    assert told[0] == 1


def test_draws_left_are_those_that_are_not_kept(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    assert draws_left(parts, "layer_3", 5) == 5
    for number in (0, 1):
        parts.once(f"layer_3_rewired_{number}", dict)
    parts.once("layer_3_shifted_2", dict)
    assert draws_left(parts, "layer_3", 5) == 3


def test_no_more_is_kept_than_is_read(tmp_path: Path) -> None:
    found_in(tmp_path, planted_modules(0)[0], SETTINGS._replace(nulls=0))
    observed = json.loads((tmp_path / "parts" / "layer_3_observed.json").read_bytes())
    assert [sorted(part.get("edges", [])) for part in observed["graphs"]] == [
        *[["first", "second", "weight"]] * 6,
        ["evidence", "first", "joint", "second", "weight"],
        [],
    ]
    assert ["labels" in part for part in observed["graphs"]] == [False] * 6 + [True, False]


@pytest.mark.parametrize("n_units", [0, 1, 2, 40])
def test_layers_without_an_edge(tmp_path: Path, n_units: int) -> None:
    generator = np.random.default_rng(0)
    turns = generator.integers(0, max(3 * n_units, 1), 200 * 40)  # at most one fires at a time
    firing = turns[:, None] == np.arange(n_units)
    found = found_in(tmp_path, firing, task_documents=(150, 50))
    assert (found.communities == -1).all()
    assert len(found.edges.first) == 0
    for row in found.rows.values():
        assert row["n_edges"] == row["n_communities"] == row["n_significant_edges"] == 0
        assert math.isnan(float(row["Q"]))
        assert math.isnan(float(row["z_Q"]))
        assert str(row["Q_reason"]).startswith("no edge")
    assert math.isnan(float(found.rows["all"]["Q_pooled"]))


def test_one_community_is_no_modularity(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    signal = generator.random((200 * 40, 1)) < 0.1
    firing = np.repeat(signal, 6, axis=1) & (generator.random((200 * 40, 6)) < 0.9)
    found = found_in(tmp_path, firing, task_documents=(150, 50))
    assert (found.communities == 0).all()
    row = found.rows["all"]
    assert math.isnan(float(row["Q"]))
    assert math.isnan(float(row["z_Q"]))
    assert str(row["Q_reason"]).startswith("one community")
    assert row["n_edges"] == 15
    assert row["n_communities"] == 1


def test_of_one_task_all_is_the_same_graph(tmp_path: Path) -> None:
    firing, _ = planted_modules(0)
    found = found_in(tmp_path, firing[: 220 * 40], task_documents=(220,))
    of_all, of_task = found.rows["all"], found.rows["code"]
    drawn = {"Q_rewired_mean", "Q_rewired_sd", "z_Q_rewired"}  # each graph is rewired on its own
    same = set(of_task) - drawn - {"warning"}  # which may be of the pooled graph
    assert all(of_all[name] == of_task[name] for name in same)
