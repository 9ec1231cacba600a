from collections import Counter
from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from sdlms.numerics import rewiring
from sdlms.numerics.rewiring import rewired, rounds_for


def uneven_graph(n_units: int, n_edges: int, spread: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs; some units have many edges, others few; units are numbered with gaps."""
    generator = np.random.default_rng(0)
    first, second = np.triu_indices(n_units, 1)
    likely = np.exp(spread * generator.normal(size=n_units))
    shares = likely[first] * likely[second]
    chosen = generator.choice(len(first), n_edges, replace=False, p=shares / shares.sum())
    return 3 * first[chosen] + 2, 3 * second[chosen] + 2


def pairs_of(first: np.ndarray, second: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(first.tolist(), second.tolist(), strict=True))


@pytest.mark.parametrize(
    ("n_units", "n_edges"), [(30, 40), (30, 41), (30, 300), (30, 420), (300, 900)]
)
def test_degrees_stay_and_the_graph_stays_simple(n_units: int, n_edges: int) -> None:
    first, second = uneven_graph(n_units, n_edges)
    before = np.bincount(np.concatenate([first, second]))
    for seed in range(5):
        new = rewired(first, second, np.random.default_rng(seed))
        assert (np.bincount(np.concatenate(new)) == before).all()
        assert (new[0] < new[1]).all()
        assert len(pairs_of(*new)) == n_edges


def test_the_generator_decides_and_the_input_stays() -> None:
    first, second = uneven_graph(40, 100)
    kept = first.copy(), second.copy()
    once, again, other = (rewired(first, second, np.random.default_rng(s)) for s in (1, 1, 2))
    assert pairs_of(*once) == pairs_of(*again) != pairs_of(*other)
    assert (first == kept[0]).all()
    assert (second == kept[1]).all()


def test_sorting_and_counting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = uneven_graph(40, 100)
    counted = rewired(first, second, np.random.default_rng(0))
    monkeypatch.setattr(rewiring, "TABLE_PER_KEY", 0)
    assert pairs_of(*rewired(first, second, np.random.default_rng(0))) == pairs_of(*counted)


def graphs_with_degrees(degrees: list[int]) -> list[frozenset[tuple[int, int]]]:
    """All simple graphs with these degrees."""
    pairs = list(combinations(range(len(degrees)), 2))
    found = []
    for edges in combinations(pairs, sum(degrees) // 2):
        if np.array_equal(np.bincount(np.ravel(edges), minlength=len(degrees)), degrees):
            found.append(frozenset(edges))
    return found


@pytest.mark.parametrize(
    "degrees", [[2, 2, 2, 2, 2, 2], [3, 3, 2, 2, 1, 1], [3, 2, 2, 2, 1], [4, 4, 3, 3, 3, 3]]
)
def test_every_graph_with_the_degrees_is_equally_likely(degrees: list[int]) -> None:
    graphs = graphs_with_degrees(degrees)
    first, second = np.array(sorted(graphs[0])).T
    generator = np.random.default_rng(0)
    n_draws = 60 * len(graphs)
    seen = Counter(
        frozenset(pairs_of(*rewired(first, second, generator, 30))) for _ in range(n_draws)
    )
    assert set(seen) == set(graphs)
    surprise = sum((seen[graph] - 60) ** 2 / 60 for graph in graphs)
    freedom = len(graphs) - 1
    assert abs(surprise - freedom) < 3.5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(("n_edges", "spread"), [(400, 0.7), (1400, 0.5), (3600, 0.3)])
def test_it_is_mixed_and_more_rounds_change_nothing(n_edges: int, spread: float) -> None:
    first, second = uneven_graph(100, n_edges, spread)
    start = pairs_of(first, second)
    shares = []
    n_swapped = min(n_edges, 4950 - n_edges)
    for rounds in (None, 5 * rounds_for(n_swapped, 100)):
        draws = [rewired(first, second, np.random.default_rng(s), rounds) for s in range(20)]
        shares.append(np.mean([len(start & pairs_of(*draw)) / n_edges for draw in draws]))
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert shares[0] < 0.8


def test_as_far_from_the_start_as_swaps_one_by_one() -> None:
    first, second = uneven_graph(60, 200)
    graph = nx.Graph(zip(first.tolist(), second.tolist(), strict=True))
    clustering, expected = [], []
    for seed in range(30):
        new = nx.Graph(pairs_of(*rewired(first, second, np.random.default_rng(seed))))
        clustering.append(nx.transitivity(new))
        swapped = nx.double_edge_swap(graph.copy(), nswap=2000, max_tries=10**6, seed=seed)
        expected.append(nx.transitivity(swapped))
    spread = np.sqrt((np.var(clustering) + np.var(expected)) / 30)
    assert abs(np.mean(clustering) - np.mean(expected)) < 3 * spread


@pytest.mark.parametrize("n_edges", [60, 300, 420])
def test_after_one_round_an_edge_keeps_an_end(n_edges: int) -> None:
    first, second = uneven_graph(30, n_edges)
    new = rewired(first, second, np.random.default_rng(0), 1)
    kept = [
        len({*old} & {*now})
        for old, now in zip(zip(first, second, strict=True), zip(*new, strict=True), strict=True)
    ]
    assert set(kept) == {1, 2}


def test_rounds_grow_with_density_up_to_a_half() -> None:
    assert rounds_for(100, 1000) == 20
    assert rounds_for(20_000, 384) == 56
    assert rounds_for(4950 // 2, 100) == 296


def test_nothing_to_swap() -> None:
    none = np.zeros(0, dtype=int)
    assert pairs_of(*rewired(none, none, np.random.default_rng(0))) == set()
    one = np.array([4]), np.array([1])
    assert pairs_of(*rewired(*one, np.random.default_rng(0))) == {(1, 4)}
    all_but_one = np.array([0, 0, 1, 1, 2]), np.array([2, 3, 2, 3, 3])
    assert pairs_of(*rewired(*all_but_one, np.random.default_rng(0))) == pairs_of(*all_but_one)
    triangle = np.array([0, 0, 1]), np.array([1, 2, 2])
    assert pairs_of(*rewired(*triangle, np.random.default_rng(0))) == pairs_of(*triangle)
