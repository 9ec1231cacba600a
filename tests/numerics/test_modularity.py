import math

import networkx as nx
import numpy as np
import pytest

from sdlms.numerics.modularity import modularity


def random_graph(seed: int, n_units: int, n_edges: int) -> tuple[np.ndarray, ...]:
    """Distinct pairs, either end first, with weights."""
    generator = np.random.default_rng(seed)
    pairs = np.stack(np.triu_indices(n_units, 1))
    first, second = pairs[:, generator.choice(pairs.shape[1], n_edges, replace=False)]
    turned = generator.random(n_edges) < 0.5
    weight = generator.random(n_edges) + 0.01
    return np.where(turned, second, first), np.where(turned, first, second), weight


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_equals_networkx(seed: int, resolution: float) -> None:
    generator = np.random.default_rng(seed)
    first, second, weight = random_graph(seed, 40, 25 + 60 * seed)
    labels = generator.integers(0, 1 + 3 * seed, 40)
    graph = nx.Graph()
    graph.add_weighted_edges_from(zip(first, second, weight, strict=True))
    communities = [set(np.flatnonzero(labels == label)) & set(graph) for label in set(labels)]
    expected = nx.community.modularity(graph, communities, resolution=resolution)
    assert modularity(first, second, weight, labels, resolution) == pytest.approx(
        expected, abs=1e-12
    )


def test_k_equal_cliques_give_one_less_a_kth() -> None:
    one = np.stack(np.triu_indices(4, 1))
    first, second = np.concatenate([one + 4 * block for block in range(5)], axis=1)
    labels = np.repeat(np.arange(5), 4)
    assert modularity(first, second, np.ones(len(first)), labels) == pytest.approx(1 - 1 / 5)


def test_one_community_gives_zero_and_scale_does_not_matter() -> None:
    first, second, weight = random_graph(0, 20, 60)
    assert modularity(first, second, weight, np.zeros(20, dtype=int)) == pytest.approx(0, abs=1e-15)
    labels = np.arange(20) % 3
    found = modularity(first, second, weight, labels)
    assert modularity(second, first, 7 * weight, labels) == pytest.approx(found, abs=1e-14)


def test_units_without_an_edge_change_nothing() -> None:
    first, second, weight = random_graph(1, 20, 60)
    labels = np.arange(20) % 4
    wider = np.concatenate([labels, [-1, 9, -1]])
    assert modularity(first, second, weight, wider) == modularity(first, second, weight, labels)


def test_no_edge_is_nan() -> None:
    none = np.zeros(0, dtype=int)
    assert math.isnan(modularity(none, none, np.zeros(0), np.full(3, -1)))
