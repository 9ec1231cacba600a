import math
from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
import torch

from sdlms.structure import plain
from sdlms.structure.communities import louvain, modularity_of
from sdlms.structure.plain import plain_modularity


def random_counts(n_units: int, n_tokens: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """Rows of firing, and their products with nonsense below the diagonal."""
    generator = np.random.default_rng(seed)
    rates = generator.uniform(0.002, 0.05, n_units)
    firing = (generator.random((n_tokens, n_units)) < rates).astype(int)
    counts = torch.from_numpy(np.triu(firing.T @ firing) + np.tril(np.full((n_units,) * 2, -7), -1))
    return firing, counts.int()


def pairs_by_sorting(firing: np.ndarray) -> list[tuple[int, int, float]]:
    """The original way: sort the full matrix, take the last 200 entries."""
    n_tokens, n_units = firing.shape
    joint, fired = firing.T @ firing, firing.sum(axis=0)
    with np.errstate(divide="ignore"):
        pmi = np.log(joint * n_tokens / np.outer(fired, fired))
    np.fill_diagonal(pmi, -np.inf)
    entries = np.argsort(-pmi, axis=None, kind="stable")[: plain.ENTRIES]
    pairs = {tuple(sorted(divmod(int(entry), n_units))) for entry in entries}
    return [(*pair, pmi[pair]) for pair in sorted(pairs) if pmi[pair] > 0]


@pytest.fixture(params=[2**22, 100])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In one block, and in blocks of few rows."""
    monkeypatch.setattr(plain, "BLOCK_PAIRS", request.param)
    yield


@pytest.mark.usefixtures("block")
def test_pairs_are_those_of_the_sorted_matrix() -> None:
    firing, counts = random_counts(60, 3000)
    graph = plain._strongest_pairs(counts, 3000)
    expected = pairs_by_sorting(firing)
    found = {(i, j): w for i, j, w in zip(*graph[:3], strict=True)}
    assert len(found) == 100
    least = min(found.values())
    for first, second, information in expected:  # which of equal ones are kept is arbitrary there
        if information > least + 1e-12:
            assert found[first, second] == pytest.approx(information, abs=1e-12)
        else:
            assert information == pytest.approx(least, abs=1e-12)


@pytest.mark.usefixtures("block")
def test_equal_pairs_come_in_the_order_of_their_units() -> None:
    counts = torch.full((40, 40), 1).int()  # each pair once together, each unit once
    graph = plain._strongest_pairs(counts, 1000)
    first, second = np.triu_indices(40, 1)
    assert (graph.first == first[:100]).all()
    assert (graph.second == second[:100]).all()
    assert graph.weight == pytest.approx(np.full(100, math.log(1000)))


def test_is_the_modularity_of_their_communities() -> None:
    _, counts = random_counts(60, 3000)
    graph = plain._strongest_pairs(counts, 3000)
    labels = louvain(graph, 1.0, 0, "networkx")
    same = nx.Graph()
    same.add_weighted_edges_from(zip(*graph[:3], strict=True))
    members = [set(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)]
    found = plain_modularity(counts, 3000, "networkx")
    assert found == modularity_of(graph, labels)
    assert found == pytest.approx(nx.community.modularity(same, members), abs=1e-12)


def test_it_is_high_where_there_is_nothing() -> None:
    _, counts = random_counts(400, 4000)
    assert plain_modularity(counts, 4000, "networkx") > 0.5


def test_no_pair_and_one_community_are_nan() -> None:
    apart = torch.diag(torch.full((5,), 10)).int()
    assert math.isnan(plain_modularity(apart, 100, "networkx"))
    together = torch.full((3, 3), 10).int()
    assert math.isnan(plain_modularity(together, 100, "networkx"))
    assert math.isnan(plain_modularity(torch.zeros(4, 4).int(), 100, "networkx"))
    assert math.isnan(plain_modularity(torch.zeros(0, 0).int(), 100, "networkx"))
