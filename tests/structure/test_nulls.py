import math
from pathlib import Path

import numpy as np
import pytest

from sdlms.numerics.association import select_edges
from sdlms.storage.firings import Firings
from sdlms.structure.communities import Graph, find_communities, louvain, modularity_of
from sdlms.structure.joint_counts import joint_counts
from sdlms.structure.nulls import Chance, against, graph_of, rewired_draw, shifted_draw
from tests.structure.firing_data import (
    TASK_DOCUMENTS,
    firings_of,
    independent_units,
    planted_modules,
)
from tests.structure.planted_graphs import planted_graph

N_DRAWS = 20
EMPTY = Graph(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0), 4)


def z_of_all(firings: Firings, top_edges: int, seed: int) -> Chance:
    """z of the graph of all tasks with edges within tasks."""
    counts, strata = list(joint_counts(firings))[-2]
    found = select_edges(counts, strata, top_edges or 10**6, significant_only=not top_edges)
    graph = graph_of(found.edges, firings.n_units)
    n_edges = [0] * 6 + [len(graph.first), 0]
    assert n_edges[-2] > 50
    draws = [shifted_draw(firings, n_edges, seed, "networkx", draw) for draw in range(N_DRAWS)]
    null = np.array([draw["Q"][-2] for draw in draws])
    return against(find_communities(graph, seed, "networkx").modularity, null)


@pytest.mark.slow
@pytest.mark.parametrize("top_edges", [0, 200])
def test_independent_units_are_within_chance(tmp_path: Path, top_edges: int) -> None:
    z = []
    for seed in range(20):
        firings = firings_of(tmp_path / str(seed), independent_units(seed), TASK_DOCUMENTS)
        z.append(z_of_all(firings, top_edges, seed).z)
    assert sum(abs(one) < 2 for one in z) >= 16
    assert abs(np.mean(z)) < 0.7


def test_the_shifted_null_knows_nothing_of_modules(tmp_path: Path) -> None:
    firing, _ = planted_modules(0)
    firings = firings_of(tmp_path, firing, TASK_DOCUMENTS)
    observed = [
        select_edges(counts, strata, 10**6, significant_only=True)
        for counts, strata in joint_counts(firings)
    ]
    n_edges = [len(each.edges.first) for each in observed]
    draw = shifted_draw(firings, n_edges, 0, "networkx", 0)
    assert draw == shifted_draw(firings, n_edges, 0, "networkx", 0)
    assert draw != shifted_draw(firings, n_edges, 0, "networkx", 1)
    assert len(draw["Q"]) == len(draw["n_significant"]) == 8
    assert draw["n_significant"][-2] < observed[-2].n_significant / 4
    graph = graph_of(observed[-2].edges, firings.n_units)
    assert draw["Q"][-2] < find_communities(graph, 0, "networkx").modularity - 0.1


def test_without_an_observed_edge_significant_pairs_are_still_counted(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, independent_units(0), TASK_DOCUMENTS)
    none = shifted_draw(firings, [0] * 8, 0, "networkx", 0)
    some = shifted_draw(firings, [50] * 8, 0, "networkx", 0)
    assert all(math.isnan(value) for value in none["Q"])
    assert not any(math.isnan(value) for value in some["Q"])
    assert none["n_significant"] == some["n_significant"]


def test_rewiring_dissolves_communities() -> None:
    graph, _ = planted_graph(6, 20)
    graphs = [graph, EMPTY]
    draw = rewired_draw(graphs, 0, "networkx", 3)
    assert draw["Q"][0] < 0.5 * modularity_of(graph, louvain(graph, 1.0, 0, "networkx"))
    assert math.isnan(draw["Q"][1])
    assert draw["Q"][0] == rewired_draw(graphs, 0, "networkx", 3)["Q"][0]
    assert draw["Q"][0] != rewired_draw(graphs, 0, "networkx", 4)["Q"][0]


def test_a_rewired_graph_is_like_any_other() -> None:
    graph, _ = planted_graph(6, 20)
    draws = [rewired_draw([graph], 0, "networkx", draw)["Q"][0] for draw in range(20)]
    found = against(rewired_draw([graph], 1, "networkx", 0)["Q"][0], np.array(draws))
    assert abs(found.z) < 3


def test_z_is_the_distance_in_deviations_of_the_draws() -> None:
    null = np.array([0.1, 0.2, np.nan, 0.3])
    assert against(0.5, null) == pytest.approx((0.2, 0.1, 3.0, ""), abs=1e-12)


@pytest.mark.parametrize(
    ("null", "reason"),
    [
        ([], "no null was drawn"),
        ([math.nan, math.nan], "no null graph has as many edges"),
        ([0.2], "one null graph has no sd"),
        ([0.2, 0.2 + 1e-16, 0.2], "all null graphs have the same modularity"),
    ],
)
def test_there_is_a_reason_where_z_is_undefined(null: list[float], reason: str) -> None:
    found = against(0.5, np.array(null))
    assert math.isnan(found.z)
    assert found.reason == reason
