"""Communities of a weighted graph: Louvain from several seeds, with igraph or networkx."""

import importlib.util
import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from sdlms.numerics.modularity import modularity

Library = Literal["igraph", "networkx"]
Labels = NDArray[np.int64]
N_SEEDS = 10
N_SWEEP_SEEDS = 3


class Graph(NamedTuple):
    """A simple weighted graph.

    Attributes:
        first: `[edge]` int64, one end of each edge.
        second: `[edge]` int64, the other end.
        weight: `[edge]` float64 > 0.
        n_units: units, with an edge or without.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float64]
    n_units: int


class Communities(NamedTuple):
    """What several seeds found.

    Attributes:
        labels: `[unit]` int64 of the best seed; 0 is the largest community, -1 has no edge.
        modularity: median over seeds; NaN without an edge.
        best_modularity: of `labels`.
        agreement: adjusted Rand index of two seeds' partitions, mean over pairs of seeds.
    """

    labels: Labels
    modularity: float
    best_modularity: float
    agreement: float


def louvain_library() -> Library:
    """The faster of both: `igraph` where it is installed, otherwise `networkx`."""
    return "igraph" if importlib.util.find_spec("igraph") else "networkx"


def louvain(graph: Graph, resolution: float, seed: int, library: Library) -> Labels:
    """Louvain from one seed, as `louvain_runs` has it."""
    return louvain_runs(graph, resolution, [seed], library)[0]


def louvain_runs(
    graph: Graph, resolution: float, seeds: Sequence[int], library: Library
) -> list[Labels]:
    """Louvain from each of several seeds.

    Args:
        graph: may be without an edge.
        resolution: of the modularity that is maximized.
        seeds: of the order in which units are visited; the same seed gives the same labels, with
            the same library.
        library: which implementation.

    Returns:
        For each seed `[unit]` int64: communities from the largest on, of equal ones that with the
        smallest unit first; -1 for units without an edge.

    Raises:
        ImportError: the library is not installed.

    Source: Blondel et al. (2008), "Fast unfolding of communities in large networks".
    """
    unlinked = np.full(graph.n_units, -1)
    if not len(graph.first):
        return [unlinked for _ in seeds]
    units, positions = np.unique(np.stack([graph.first, graph.second]), return_inverse=True)
    search = _igraph_louvain if library == "igraph" else _networkx_louvain
    runs = []
    for found in search(positions.reshape(2, -1), graph.weight, resolution, seeds):
        labels = unlinked.copy()
        labels[units] = _largest_first(found)
        runs.append(labels)
    return runs


def find_communities(graph: Graph, first_seed: int, library: Library) -> Communities:
    """Louvain at resolution 1 from ten seeds."""
    runs = louvain_runs(graph, 1.0, range(first_seed, first_seed + N_SEEDS), library)
    values = [modularity_of(graph, labels) for labels in runs]
    best = int(np.argmax(values))
    pairs = [agreement(one, other) for one, other in combinations(runs, 2)]
    return Communities(runs[best], float(np.median(values)), values[best], float(np.mean(pairs)))


def labels_at(graph: Graph, resolution: float, first_seed: int, library: Library) -> Labels:
    """Of three seeds' partitions the one of the highest modularity at `resolution`."""
    runs = louvain_runs(graph, resolution, range(first_seed, first_seed + N_SWEEP_SEEDS), library)
    return runs[int(np.argmax([modularity_of(graph, labels, resolution) for labels in runs]))]


def modularity_of(graph: Graph, labels: Labels, resolution: float = 1.0) -> float:
    """Modularity of a partition; NaN without an edge."""
    return modularity(graph.first, graph.second, graph.weight, labels, resolution)


def agreement(one: Labels, other: Labels) -> float:
    """Adjusted Rand index of two partitions of the same units; NaN where none has an edge."""
    linked = one >= 0
    return float(adjusted_rand_score(one[linked], other[linked])) if linked.any() else float("nan")


def n_communities(labels: Labels) -> int:
    """Communities of at least two units."""
    return int((np.bincount(labels[labels >= 0]) >= 2).sum())


def _largest_first(labels: Labels) -> Labels:
    """The same partition, its communities numbered by falling size, then by smallest unit."""
    _, starts, positions, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    ranks = np.empty(len(starts), dtype=np.int64)
    ranks[np.lexsort((starts, -sizes))] = np.arange(len(starts))
    return ranks[positions]


def _igraph_louvain(
    ends: NDArray[np.int64], weight: NDArray[np.float64], resolution: float, seeds: Sequence[int]
) -> Iterator[Labels]:
    """`[unit]` for each seed, as igraph numbers the communities of units `0 .. n - 1`."""
    import igraph  # an optional extra

    pairs = list(zip(*ends.tolist(), strict=True))  # which it takes faster than an array
    graph = igraph.Graph(n=int(ends.max()) + 1, edges=pairs)
    weights = weight.tolist()
    for seed in seeds:
        igraph.set_random_number_generator(random.Random(seed))
        try:
            found = graph.community_multilevel(weights=weights, resolution=resolution)
        finally:
            igraph.set_random_number_generator(random)  # from which it draws unless told otherwise
        yield np.array(found.membership)


def _networkx_louvain(
    ends: NDArray[np.int64], weight: NDArray[np.float64], resolution: float, seeds: Sequence[int]
) -> Iterator[Labels]:
    """`[unit]` for each seed, as networkx orders the communities of units `0 .. n - 1`."""
    graph = nx.Graph()
    graph.add_nodes_from(range(int(ends.max()) + 1))
    graph.add_weighted_edges_from(zip(*ends.tolist(), weight.tolist(), strict=True))
    for seed in seeds:
        found = nx.community.louvain_communities(graph, resolution=resolution, seed=seed)
        labels = np.empty(len(graph), dtype=np.int64)
        for label, members in enumerate(found):
            labels[list(members)] = label
        yield labels
