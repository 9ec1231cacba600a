import math

import numpy as np
import pytest

from sdlms.structure.graph_rows import Found, Nulls, graph_row, with_pooled

SOUND = Found(0.4, 0.45, 0.9, 5, False, 300, 320)
NO_EDGE = Found(math.nan, math.nan, math.nan, 0, False, 0, 0)
WHOLE = Found(0.0, 0.0, 1.0, 1, True, 3, 3)
NULLS = Nulls(np.array([0.1, 0.2, 0.3]), np.array([4.0, 5.0, 9.0]), np.array([0.0, 0.1, 0.2]))
NONE = Nulls(np.zeros(0), np.zeros(0), np.zeros(0))


def missing(row: dict[str, float | int | str]) -> set[str]:
    return {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}


def test_a_sound_graph_has_every_column() -> None:
    row = graph_row(SOUND, NULLS, 0.8)
    assert not missing(row)
    assert row["Q_reason"] == ""
    assert (row["Q"], row["Q_best"], row["Q_plain"]) == (0.4, 0.45, 0.8)
    assert row["z_Q"] == pytest.approx((0.4 - 0.2) / 0.1)
    assert row["z_Q_rewired"] == pytest.approx((0.4 - 0.1) / 0.1)
    assert row["n_significant_null_mean"] == 6
    counts = [row["n_edges"], row["n_significant_edges"], row["n_communities"]]
    assert counts == [300, 320, 5]
    assert all(isinstance(count, int) for count in counts)


def test_no_edge() -> None:
    nothing = np.full(3, np.nan)
    row = graph_row(NO_EDGE, Nulls(nothing, np.array([0.0, 1.0, 2.0]), nothing), math.nan)
    assert row["Q_reason"] == "no edge; plain: no edge or one community"
    assert row["n_edges"] == row["n_communities"] == 0
    assert row["n_significant_null_mean"] == 1
    sound = {"n_edges", "n_significant_edges", "n_communities", "n_significant_null_mean"}
    assert missing(row) == set(row) - sound - {"Q_reason"}


def test_one_community_says_nothing() -> None:
    row = graph_row(WHOLE, NULLS, 0.8)
    assert row["Q_reason"] == "one community"
    assert missing(row) == {"Q", "Q_best", "z_Q", "z_Q_rewired"}
    assert row["n_edges"] == 3
    assert row["n_communities"] == 1


def test_no_null() -> None:
    row = graph_row(SOUND, NONE, 0.8)
    assert row["Q_reason"] == "no null was drawn"
    assert missing(row) == {
        *("Q_null_mean", "Q_null_sd", "z_Q", "n_significant_null_mean"),
        *("Q_rewired_mean", "Q_rewired_sd", "z_Q_rewired"),
    }


def test_a_null_that_is_always_the_same() -> None:
    row = graph_row(SOUND, NULLS._replace(rewired=np.array([0.4, 0.4 + 1e-16, 0.4])), 0.8)
    assert row["Q_reason"] == "rewired: all null graphs have the same modularity"
    assert missing(row) == {"z_Q_rewired"}


def test_pooled_columns_stand_beside() -> None:
    row = graph_row(SOUND, NULLS, 0.8)
    both = with_pooled(row, SOUND._replace(Q=0.5, n_edges=7), NULLS)
    assert both.items() >= row.items()
    assert (both["Q_pooled"], both["n_edges_pooled"]) == (0.5, 7)
    assert both["z_Q_pooled"] == pytest.approx(3)
    assert not missing(both)
    degenerate = with_pooled(row, NO_EDGE, NULLS)
    assert degenerate["Q_reason"] == "pooled: no edge"
    assert math.isnan(float(degenerate["Q_pooled"]))
    assert degenerate["n_communities_pooled"] == 0


def test_the_same_reason_is_told_once() -> None:
    row = with_pooled(graph_row(SOUND, NONE, 0.8), SOUND, NONE)
    assert row["Q_reason"] == "no null was drawn"
