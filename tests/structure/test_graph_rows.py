import math

import numpy as np
import pytest

from sdlms.structure.graph_rows import Found, Nulls, graph_row, with_pooled

SOUND = Found(0.4, 0.45, 0.9, 5, False, 300, 320, 1000, True)
NO_EDGE = Found(math.nan, math.nan, math.nan, 0, False, 0, 0, 1000, False)
WHOLE = Found(0.0, 0.0, 1.0, 1, True, 300, 300, 1000, False)
NULLS = Nulls(
    shifted=np.array([0.1, 0.2, 0.3]),
    matched=np.array([0.3, 0.4, 0.5]),
    n_matched=np.array([300.0, 280.0, 290.0]),
    n_significant=np.array([4.0, 5.0, 9.0]),
    rewired=np.array([0.0, 0.1, 0.2]),
)
NONE = Nulls(*[np.zeros(0)] * 5)
SMALL = "fewer than 50 edges: modularity of so small a graph is noise"


def missing(row: dict[str, float | int | str]) -> set[str]:
    return {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}


def test_a_sound_graph_has_every_column() -> None:
    row = graph_row(SOUND, NULLS, 0.8)
    assert not missing(row)
    assert row["Q_reason"] == ""
    assert (row["Q"], row["Q_best"], row["Q_plain"]) == (0.4, 0.45, 0.8)
    assert row["z_Q_rewired"] == pytest.approx((0.4 - 0.1) / 0.1)
    assert row["n_significant_null_mean"] == 6
    assert row["edge_density"] == 0.3
    names = ["n_edges", "n_edges_matched", "n_significant_edges", "n_communities"]
    counts = [row[name] for name in names]
    assert counts == [300, 280, 320, 5]
    assert all(isinstance(count, int) for count in counts)


def test_z_compares_graphs_of_as_many_edges() -> None:
    row = graph_row(SOUND, NULLS._replace(matched=np.array([0.3, 0.2, 0.4])), 0.8)
    assert row["Q"] == 0.4
    assert row["z_Q"] == pytest.approx((0.3 - 0.2) / 0.1)


def test_a_capped_graph_says_so() -> None:
    assert graph_row(SOUND, NULLS, 0.8)["warning"] == "graph capped: 300 of 320 significant edges"
    whole = graph_row(SOUND._replace(capped=False), NULLS, 0.8)
    assert whole["warning"] == ""
    both = with_pooled(whole, SOUND, NULLS.shifted, NULLS.n_significant)
    assert both["warning"] == "pooled graph capped: 300 of 320 significant edges"


@pytest.mark.parametrize("n_edges", [1, 49])
def test_small_graphs_have_modularity_but_no_z(n_edges: int) -> None:
    nulls = NULLS._replace(n_matched=np.full(3, float(n_edges)))
    row = graph_row(SOUND._replace(n_edges=n_edges), nulls, 0.8)
    assert missing(row) == {"z_Q", "z_Q_rewired"}
    assert row["Q_reason"] == SMALL


def test_one_small_null_graph_is_enough_to_compare_nothing() -> None:
    row = graph_row(SOUND, NULLS._replace(n_matched=np.array([300.0, 49.0, 300.0])), 0.8)
    assert missing(row) == {"z_Q"}
    assert row["Q_reason"] == SMALL
    assert row["n_edges_matched"] == 49
    without = NULLS._replace(
        n_matched=np.array([300.0, 0.0, 300.0]), shifted=np.array([0.1, np.nan, 0.3])
    )
    row = graph_row(SOUND, without, 0.8)
    assert missing(row) == {"z_Q", "Q_null_mean", "Q_null_sd"}
    assert row["Q_reason"] == SMALL


def test_no_edge() -> None:
    nothing, none = np.full(3, np.nan), np.zeros(3)
    row = graph_row(NO_EDGE, Nulls(nothing, nothing, none, np.arange(3.0), nothing), math.nan)
    assert row["Q_reason"] == "no edge; plain: no edge or one community"
    sound = {"n_edges", "n_edges_matched", "edge_density", "n_significant_edges", "n_communities"}
    assert all(row[name] == 0 for name in sound)
    assert row["n_significant_null_mean"] == 1
    told = {"n_significant_null_mean", "Q_reason", "warning"}
    assert missing(row) == set(row) - sound - told


def test_no_pair_has_no_density() -> None:
    assert math.isnan(float(graph_row(NO_EDGE._replace(n_pairs=0), NONE, 0.8)["edge_density"]))


def test_one_community_says_nothing() -> None:
    row = graph_row(WHOLE, NULLS, 0.8)
    assert row["Q_reason"] == "one community"
    assert missing(row) == {"Q", "Q_best", "z_Q", "z_Q_rewired"}
    assert row["n_edges"] == 300
    assert row["n_communities"] == 1


@pytest.mark.parametrize("n_edges", [10, 300])
def test_no_null(n_edges: int) -> None:
    row = graph_row(SOUND._replace(n_edges=n_edges), NONE, 0.8)
    assert row["Q_reason"] == "no null was drawn"
    assert row["n_edges_matched"] == 0
    assert missing(row) == {
        *("Q_null_mean", "Q_null_sd", "z_Q", "n_significant_null_mean"),
        *("Q_rewired_mean", "Q_rewired_sd", "z_Q_rewired"),
    }


def test_a_null_that_is_always_the_same() -> None:
    row = graph_row(SOUND, NULLS._replace(rewired=np.array([0.4, 0.4 + 1e-16, 0.4])), 0.8)
    assert row["Q_reason"] == "rewired: all null graphs have the same modularity"
    assert missing(row) == {"z_Q_rewired"}


def test_pooled_columns_stand_beside() -> None:
    row = graph_row(SOUND._replace(capped=False), NULLS, 0.8)
    pooled = SOUND._replace(Q=0.5, n_edges=7, capped=False)
    both = with_pooled(row, pooled, NULLS.shifted, NULLS.n_significant)
    assert both.items() >= row.items()
    assert (both["Q_pooled"], both["n_edges_pooled"]) == (0.5, 7)
    assert both["Q_pooled_null_mean"] == pytest.approx(0.2)
    assert both["n_significant_pooled_null_mean"] == 6
    assert "z_Q_pooled" not in both
    assert not missing(both)
    degenerate = with_pooled(row, NO_EDGE, NULLS.shifted, NULLS.n_significant)
    assert degenerate["Q_reason"] == "pooled: no edge"
    assert math.isnan(float(degenerate["Q_pooled"]))
    assert degenerate["n_communities_pooled"] == 0


def test_the_same_reason_is_told_once() -> None:
    nothing = np.full(3, np.nan)
    nulls = Nulls(nothing, nothing, np.zeros(3), np.zeros(3), nothing)
    row = with_pooled(graph_row(NO_EDGE, nulls, 0.8), NO_EDGE, nothing, np.zeros(3))
    assert row["Q_reason"] == "no edge"
