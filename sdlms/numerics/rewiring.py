"""Random graphs with the degrees of a given one: edges swap their ends."""

import math

import numpy as np
from numpy.typing import NDArray

FEWEST_ROUNDS = 20
SWAPS_PER_EDGE = 10
TABLE_PER_KEY = 32  # up to so many cells for each key, counting in a table is faster than sorting


def rewired(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    generator: np.random.Generator,
    rounds: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A simple graph with the same degrees, drawn by swapping the ends of pairs of edges.

    In a round all edges are paired at random and each pair (a, b), (c, d) may become (a, d),
    (c, b). A pair stays as it is if that would join a unit with itself, or if one of its two old
    or two new edges is also another's, old or new. So refused swaps stay refused when the others
    are undone: a round is as likely as its reverse, and all graphs that can be reached become
    equally likely.

    Args:
        first: `[edge]` int64 >= 0, one end of each edge; each pair of units once, no unit with
            itself.
        second: `[edge]` int64 >= 0, the other end.
        generator: of pairs and directions.
        rounds: how often all edges are paired (or all pairs without one, where these are fewer);
            as `rounds_for` says where it is left out.

    Returns:
        The new ends, `[edge]` int64 each, the smaller one first; the edges keep their positions,
        so that weights travel with them.

    Source: Maslov and Sneppen (2002), "Specificity and stability in topology of protein
    networks", for swaps of edges.
    """
    if len(first) < 2:
        return np.minimum(first, second), np.maximum(first, second)
    units, positions = np.unique(np.stack([first, second]), return_inverse=True)
    ends = positions.reshape(2, len(first))
    n_absent = len(units) * (len(units) - 1) // 2 - len(first)
    swap_all = _swap_edges_ if n_absent >= len(first) else _swap_absent_
    n_swapped = min(n_absent, len(first))
    if rounds is None:
        rounds = rounds_for(n_swapped, len(units))
    if n_swapped > 1:
        swap_all(ends, len(units), generator, rounds)
    return units[ends.min(axis=0)], units[ends.max(axis=0)]


def _swap_edges_(
    ends: NDArray[np.int64], n_units: int, generator: np.random.Generator, rounds: int
) -> None:
    """Swap the `[2, edge]` ends."""
    for _ in range(rounds):
        _swap_(ends, n_units, generator)


def _swap_absent_(
    ends: NDArray[np.int64], n_units: int, generator: np.random.Generator, rounds: int
) -> None:
    """Swap the ends of the pairs that have no edge, which are fewer.

    Where the pairs (a, b), (c, d) become (a, d), (c, b), the edges (a, d), (c, b) become (a, b),
    (c, d): the same swap seen from the other side, and seldom refused.
    """
    edges = np.full(n_units * n_units, -1)
    edges[_keys(ends[0], ends[1], n_units)] = np.arange(ends.shape[1])
    absent = np.stack(np.triu_indices(n_units, 1))
    absent = absent[:, edges[_keys(absent[0], absent[1], n_units)] < 0]
    for _ in range(rounds):
        before, after = _swap_(absent, n_units, generator)
        edges[before] = edges[after]
        edges[after] = -1
    keys = np.flatnonzero(edges >= 0)
    ends[:, edges[keys]] = np.divmod(keys, n_units)


def rounds_for(n_swapped: int, n_units: int) -> int:
    """Rounds in which an edge (or gap) is swapped about ten times, from 20 to 296.

    With a share d of all pairs joined, a swap finds both its new edges free with probability
    (1 - d)^2, and all four edges untouched by another swap with about exp(-4 d). Of d and 1 - d
    the smaller counts, as it is the rarer of edges and gaps that are swapped.
    """
    joined = min(n_swapped / (n_units * (n_units - 1) / 2), 0.5)
    accepted = (1 - joined) ** 2 * math.exp(-4 * joined)
    return max(FEWEST_ROUNDS, math.ceil(SWAPS_PER_EDGE / accepted))


def _swap_(
    ends: NDArray[np.int64], n_units: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One round on `[2, pair]` ends; gives the keys of the pairs that went, and that came."""
    n_edges = ends.shape[1]
    n_pairs = n_edges // 2
    turned = generator.random(n_edges) < 0.5
    ends[:, turned] = ends[::-1, turned]
    one, other = generator.permutation(n_edges)[: 2 * n_pairs].reshape(2, n_pairs)
    crossed = np.stack([ends[0, one], ends[0, other]]), np.stack([ends[1, other], ends[1, one]])
    old, new = _keys(ends[0], ends[1], n_units), _keys(crossed[0], crossed[1], n_units)
    alone = _alone(np.concatenate([old, new.ravel()]))
    free = alone[n_edges:].reshape(2, n_pairs).all(axis=0) & alone[one] & alone[other]
    free &= (crossed[0] != crossed[1]).all(axis=0)
    one, other = one[free], other[free]
    ends[1, one], ends[1, other] = crossed[1][:, free]
    return np.concatenate([old[one], old[other]]), new[:, free].ravel()


def _keys(first: NDArray[np.int64], second: NDArray[np.int64], n_units: int) -> NDArray[np.int64]:
    """One number for each pair of units, whichever comes first."""
    keys: NDArray[np.int64] = np.minimum(first, second) * n_units + np.maximum(first, second)
    return keys


def _alone(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`[key]`, whether it is there once."""
    if keys.max() < TABLE_PER_KEY * len(keys):
        times = np.bincount(keys)[keys]
    else:
        _, positions, counts = np.unique(keys, return_inverse=True, return_counts=True)
        times = counts[positions]
    once: NDArray[np.bool_] = times == 1
    return once
