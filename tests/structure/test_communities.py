import importlib.util
import math
import random

import networkx as nx
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from sdlms.structure.communities import (
    Graph,
    Library,
    agreement,
    find_communities,
    labels_at,
    louvain,
    louvain_library,
    modularity_of,
    n_communities,
)
from tests.structure.planted_graphs import planted_graph, random_graph

LIBRARIES = ["igraph", "networkx"]
EMPTY = Graph(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0), 5)


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    pytest.importorskip(request.param)
    chosen: Library = request.param
    return chosen


def test_planted_modules_are_found(library: Library) -> None:
    graph, modules = planted_graph(8, 16)
    labels = louvain(graph, 1.0, 0, library)
    assert adjusted_rand_score(labels, modules) == 1
    assert labels[-1] == -1
    assert n_communities(labels) == 8


def test_the_same_seed_gives_the_same_labels(library: Library) -> None:
    graph = random_graph(200, 2000)
    runs = [louvain(graph, 1.0, seed, library) for seed in (3, 3, 4)]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_other_draws_change_nothing_and_are_not_changed(library: Library) -> None:
    graph = random_graph(100, 600)
    expected = louvain(graph, 1.0, 0, library)
    random.seed(5)
    np.random.seed(5)
    state = random.getstate()
    assert (louvain(graph, 1.0, 0, library) == expected).all()
    assert random.getstate() == state


def test_igraph_draws_from_pythons_random_again() -> None:
    igraph = pytest.importorskip("igraph")
    random.seed(1)
    expected = igraph.Graph.Erdos_Renyi(n=50, m=100).get_edgelist()
    louvain(random_graph(100, 600), 1.0, 0, "igraph")
    random.seed(1)
    assert igraph.Graph.Erdos_Renyi(n=50, m=100).get_edgelist() == expected


def test_both_libraries_reach_the_same_modularity() -> None:
    pytest.importorskip("igraph")
    graph = random_graph(300, 6000)
    reached = [find_communities(graph, 0, library).modularity for library in LIBRARIES]
    assert reached[0] == pytest.approx(reached[1], abs=0.01)


def test_labels_run_from_the_largest_community_on(library: Library) -> None:
    labels = louvain(random_graph(150, 900), 1.0, 0, library)
    sizes = np.bincount(labels)
    assert (np.diff(sizes) <= 0).all()
    starts = [np.flatnonzero(labels == label)[0] for label in range(len(sizes))]
    for label in np.flatnonzero(np.diff(sizes) == 0):
        assert starts[label] < starts[label + 1]


def test_higher_resolution_gives_more_communities(library: Library) -> None:
    graph = random_graph(200, 1500)
    found = [n_communities(louvain(graph, r, 0, library)) for r in (0.5, 1.0, 2.0)]
    assert found[0] < found[1] < found[2]


def test_median_best_and_agreement_are_of_ten_seeds(library: Library) -> None:
    graph = random_graph(120, 900)
    runs = [louvain(graph, 1.0, seed, library) for seed in range(7, 17)]
    values = [modularity_of(graph, labels) for labels in runs]
    found = find_communities(graph, 7, library)
    assert found.modularity == np.median(values)
    assert found.best_modularity == max(values) == modularity_of(graph, found.labels)
    pairs = [adjusted_rand_score(runs[i], runs[j]) for i in range(10) for j in range(i)]
    assert found.agreement == pytest.approx(np.mean(pairs))
    assert found.agreement < 1


def test_labels_at_a_resolution_are_the_best_of_three_seeds(library: Library) -> None:
    graph = random_graph(120, 900)
    runs = [louvain(graph, 2.0, seed, library) for seed in range(4, 7)]
    reached = [modularity_of(graph, labels, 2.0) for labels in runs]
    assert (labels_at(graph, 2.0, 4, library) == runs[int(np.argmax(reached))]).all()


def test_modularity_is_that_of_networkx(library: Library) -> None:
    graph, _ = planted_graph(5, 12, seed=3)
    labels = louvain(graph, 1.0, 0, library)
    same = nx.Graph()
    same.add_weighted_edges_from(zip(*graph[:3], strict=True))
    members = [set(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)]
    expected = nx.community.modularity(same, members)
    assert modularity_of(graph, labels) == pytest.approx(expected, abs=1e-12)


def test_no_edge(library: Library) -> None:
    found = find_communities(EMPTY, 0, library)
    assert (found.labels == -1).all()
    assert math.isnan(found.modularity)
    assert math.isnan(found.best_modularity)
    assert math.isnan(found.agreement)
    assert n_communities(found.labels) == 0


def test_two_units(library: Library) -> None:
    pair = Graph(np.array([1]), np.array([3]), np.array([0.4]), 5)
    found = find_communities(pair, 0, library)
    assert found.labels.tolist() == [-1, 0, -1, 0, -1]
    assert found.agreement == 1


def test_agreement_is_of_units_with_an_edge() -> None:
    one, other = np.array([0, 0, 1, 1, -1]), np.array([1, 1, 0, 0, -1])
    assert agreement(one, other) == 1
    assert math.isnan(agreement(np.full(3, -1), np.full(3, -1)))


def test_igraph_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec("networkx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: {"igraph": found}[name])
    assert louvain_library() == "igraph"


def test_networkx_is_taken_where_igraph_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert louvain_library() == "networkx"
