import math
from pathlib import Path

import numpy as np
import pytest

from sdlms.numerics.association import select_edges
from sdlms.storage.firings import Firings
from sdlms.structure.communities import Graph, louvain, modularity_of
from sdlms.structure.joint_counts import joint_counts
from sdlms.structure.nulls import (
    Chance,
    NullModel,
    against,
    graph_of,
    rewired_draw,
    shifted_draw,
    strongest,
)
from tests.structure.firing_data import (
    TASK_DOCUMENTS,
    firings_of,
    independent_units,
    planted_modules,
)
from tests.structure.planted_graphs import planted_graph

N_DRAWS = 20
N_TASKS = len(TASK_DOCUMENTS)
EMPTY = Graph(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0), 4)


def model_of(firings: Firings, graphs: list[Graph], n_pooled: int = 0, seed: int = 0) -> NullModel:
    return NullModel(firings, graphs, n_pooled, "cpu", seed, "networkx")


def observed(firings: Firings, most: int, *, significant_only: bool) -> list[Graph]:
    """Every graph, the pooled one last."""
    return [
        graph_of(
            select_edges(counts, strata, most, significant_only=significant_only).edges,
            firings.n_units,
        )
        for counts, strata in joint_counts(firings, "cpu")
    ]


def z_of_all(firings: Firings, seed: int) -> Chance:
    """z of the 200 strongest edges over all tasks."""
    graph = observed(firings, 200, significant_only=False)[-2]
    assert len(graph.first) == 200
    model = model_of(firings, [EMPTY] * N_TASKS + [graph], seed=seed)
    draws = [shifted_draw(model, draw) for draw in range(N_DRAWS)]
    assert all(draw["n_matched"][-1] == 200 for draw in draws)
    own, null = (np.array([draw[key][N_TASKS] for draw in draws]) for key in ("Q_matched", "Q"))
    return against(own.mean(), null)


@pytest.mark.slow
@pytest.mark.parametrize("raised", [1, 5], ids=["alone", "with topics"])
def test_independent_units_are_within_chance(tmp_path: Path, raised: float) -> None:
    z = []
    for seed in range(20):
        firing = independent_units(seed, raised=raised)
        z.append(z_of_all(firings_of(tmp_path / str(seed), firing, TASK_DOCUMENTS), seed).z)
    assert sum(abs(one) < 2 for one in z) >= 16
    assert abs(np.mean(z)) < 0.7


@pytest.mark.parametrize("raised", [1, 5], ids=["alone", "with topics"])
def test_independent_units_have_hardly_a_significant_edge(tmp_path: Path, raised: float) -> None:
    """By chance 0.4 of 12,720 pairs would be, were it not for firing in bursts."""
    n_edges = []
    for seed in range(4):
        firing = independent_units(seed, raised=raised)
        firings = firings_of(tmp_path / str(seed), firing, TASK_DOCUMENTS)
        n_edges.append(len(observed(firings, 10**6, significant_only=True)[-2].first))
    assert np.mean(n_edges) <= 16


def test_the_shifted_null_knows_nothing_of_modules(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, planted_modules(0)[0], TASK_DOCUMENTS)
    graphs = observed(firings, 10**6, significant_only=True)
    model = model_of(firings, graphs[:-1], len(graphs[-1].first))
    draw = shifted_draw(model, 0)
    assert draw == shifted_draw(model, 0)
    assert draw != shifted_draw(model, 1)
    assert len(draw["Q"]) == len(draw["n_significant"]) == N_TASKS + 2
    assert len(draw["Q_matched"]) == len(draw["n_matched"]) == N_TASKS + 1
    assert draw["n_significant"][N_TASKS] < len(graphs[N_TASKS].first) / 20
    assert draw["Q"][N_TASKS] < draw["Q_matched"][N_TASKS] - 0.1


def test_as_many_edges_are_compared(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, planted_modules(0)[0], TASK_DOCUMENTS)
    graphs = observed(firings, 10**6, significant_only=False)[:-1]
    draw = shifted_draw(model_of(firings, graphs), 2)
    fewer = 0
    for graph, n_matched, own in zip(graphs, draw["n_matched"], draw["Q_matched"], strict=True):
        assert 0 < n_matched <= len(graph.first)
        cut = strongest(graph, n_matched)
        assert len(cut.first) == len(cut.weight) == n_matched
        assert own == modularity_of(cut, louvain(cut, 1.0, 2, "networkx"))
        fewer += n_matched < len(graph.first)
    assert fewer > 0


def test_without_an_observed_edge_significant_pairs_are_still_counted(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, independent_units(0), TASK_DOCUMENTS)
    graph = observed(firings, 60, significant_only=False)[-2]
    none = shifted_draw(model_of(firings, [EMPTY] * (N_TASKS + 1)), 0)
    some = shifted_draw(model_of(firings, [graph] * (N_TASKS + 1), 60), 0)
    assert all(math.isnan(value) for value in none["Q"] + none["Q_matched"])
    assert none["n_matched"] == [0] * (N_TASKS + 1)
    assert not any(math.isnan(value) for value in some["Q"])
    assert none["n_significant"] == some["n_significant"]


def test_rewiring_dissolves_communities(tmp_path: Path) -> None:
    graph, _ = planted_graph(6, 20)
    firings = firings_of(tmp_path, np.zeros((40, 0)), (1,))
    model = model_of(firings, [graph, EMPTY])
    draw = rewired_draw(model, 3)
    assert draw["Q"][0] < 0.5 * modularity_of(graph, louvain(graph, 1.0, 0, "networkx"))
    assert math.isnan(draw["Q"][1])
    assert draw["Q"][0] == rewired_draw(model, 3)["Q"][0]
    assert draw["Q"][0] != rewired_draw(model, 4)["Q"][0]


def test_a_rewired_graph_is_like_any_other(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, np.zeros((40, 0)), (1,))
    model = model_of(firings, [planted_graph(6, 20)[0]])
    draws = [rewired_draw(model, draw)["Q"][0] for draw in range(20)]
    found = against(rewired_draw(model._replace(seed=1), 0)["Q"][0], np.array(draws))
    assert abs(found.z) < 3


def test_z_is_the_distance_in_deviations_of_the_draws() -> None:
    null = np.array([0.1, 0.2, 0.3])
    assert against(0.5, null) == pytest.approx((0.2, 0.1, 3.0, ""), abs=1e-12)


@pytest.mark.parametrize(
    ("null", "reason"),
    [
        ([], "no null was drawn"),
        ([0.1, math.nan, 0.3], "a null graph has no edge"),
        ([0.2], "one null graph has no sd"),
        ([0.2, 0.2 + 1e-16, 0.2], "all null graphs have the same modularity"),
    ],
)
def test_there_is_a_reason_where_z_is_undefined(null: list[float], reason: str) -> None:
    found = against(0.5, np.array(null))
    assert math.isnan(found.z)
    assert found.reason == reason
