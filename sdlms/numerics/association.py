"""Which units fire together more often than their rates in each stratum of tokens explain."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Pairs that fire together on fewer tokens are no candidates.
LEAST_JOINT = 10
# Evidence from here on is significant: a chance of 3e-5 for one pair of independent units.
SIGNIFICANT_Z = 4.0
# A joint count exceeds its expectation by more than this, in tokens: rounding is no excess.
LEAST_EXCESS = 1e-6
# Pairs looked at at once: enough rows for a product, few enough for three arrays of 8 MB.
BLOCK_PAIRS = 1 << 20
# To which evidence is rounded, so that equal pairs are equal wherever in a product they stand.
DECIMALS = 9

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Strata:
    """How often each unit fires in parts of the tokens, within which tokens are comparable.

    Attributes:
        counts: `[stratum, unit]`, tokens on which the unit fires; any integers.
        n_tokens: `[stratum]` int64 >= 0.
    """

    counts: NDArray[np.integer[Any]]
    n_tokens: Integers

    @cached_property
    def expectation_factors(self) -> Tensor:
        """`[stratum, unit]` c / sqrt(N); two units' product is their expected joint count."""
        return torch.from_numpy(self.counts / np.sqrt(np.maximum(self._sizes, 1)))

    @cached_property
    def variance_factors(self) -> Tensor:
        """`[stratum, unit]` c (N - c) / (N sqrt(N - 1)); two units' product is its variance."""
        divisors = np.maximum(self._sizes, 1) * np.sqrt(np.maximum(self._sizes - 1, 1))
        return torch.from_numpy(self.counts * (self._sizes - self.counts) / divisors)

    @cached_property
    def totals(self) -> Floats:
        """`[unit]` tokens on which it fires, over all strata."""
        return np.asarray(self.counts.sum(axis=0), dtype=np.float64)

    @property
    def _sizes(self) -> Floats:
        """`[stratum, 1]` N."""
        return self.n_tokens[:, None].astype(np.float64)


class Pairs(NamedTuple):
    """Pairs of units and what evidence is made of.

    Attributes:
        joint: `[pair]` tokens on which both fire.
        expected: `[pair]` the same if they were independent in each stratum.
        variance: `[pair]` of that number.
        one: `[pair]` tokens on which the first fires.
        other: `[pair]` tokens on which the second fires.
    """

    joint: Integers
    expected: Floats
    variance: Floats
    one: Floats
    other: Floats


class Edges(NamedTuple):
    """Pairs of units, strongest evidence first, equal ones by `first`, then by `second`.

    Attributes:
        first: `[edge]` a unit.
        second: `[edge]` a unit of higher index.
        joint: `[edge]` tokens on which both fire.
        evidence: `[edge]` `evidence` of the pair, > 0.
        weight: `[edge]` `npmi` of the pair, in (0, 1].
    """

    first: Integers
    second: Integers
    joint: Integers
    evidence: Floats
    weight: Floats


class Selected(NamedTuple):
    """The strongest edges, and how many candidates are significant, selected or not."""

    edges: Edges
    n_significant: int


def expected_joint(strata: Strata, rows: slice) -> Floats:
    """Tokens on which two units would both fire if they were independent within each stratum.

    Args:
        strata: counts of the units.
        rows: `first:last`, consecutive units.

    Returns:
        `[row, unit]` of these units with units `first ..`: the sum over strata of c_i c_j / N.

    Source: Mantel and Haenszel (1959), "Statistical aspects of the analysis of data from
    retrospective studies of disease"; mean of the hypergeometric distribution.
    """
    return _products(strata.expectation_factors, rows)


def joint_variance(strata: Strata, rows: slice) -> Floats:
    """Variance of that number, the sum over strata of c_i (N - c_i) c_j (N - c_j) / (N^2 (N - 1)).

    It is 0 where in each stratum one of the two fires always or never. Arguments, shape and
    source as for `expected_joint`.
    """
    return _products(strata.variance_factors, rows)


def _products(factors: Tensor, rows: slice) -> Floats:
    """Sums over strata of the products of a row's and a later unit's factors."""
    product: Floats = (factors[:, rows].T @ factors[:, rows.start :]).numpy()
    return product


def evidence(pairs: Pairs, n_tokens: int) -> Floats:
    """How many standard deviations the joint count of two units is off independence.

    The signed root of G2 of the 2 x 2 table against its expected one, scaled so that small
    deviations give the z of Cochran, Mantel and Haenszel, (O - E) / sqrt(V). That z itself
    overstates rare pairs: of independent units it passed 4 five times as often as a normal
    variable at E = 20 and sixteen times at E = 3, where this did so 0.8 to 0.9 times.

    Args:
        pairs: of units.
        n_tokens: of all strata.

    Returns:
        `[pair]` rounded to nine decimals, negative where they fire together less than expected;
        NaN where the variance is 0.

    Source: Dunning (1993), "Accurate methods for the statistics of surprise and coincidence", for
    G2; Cochran (1954), "Some methods for strengthening the common chi-squared tests", for strata.
    """
    if not (varies := pairs.variance > 0).all():
        found = np.full(len(varies), np.nan)
        columns: list[Any] = [column[varies] for column in pairs]
        found[varies] = evidence(Pairs(*columns), n_tokens)
        return found
    seen = _cells(pairs.joint.astype(np.float64), pairs, n_tokens)
    awaited = _cells(pairs.expected, pairs, n_tokens)
    logs = np.log(np.where(seen > 0, seen, 1) / awaited)
    g2, precision = 2 * (seen * logs).sum(axis=0), (1 / awaited).sum(axis=0)
    root = np.sqrt(np.maximum(g2, 0) / (precision * pairs.variance))
    signed: Floats = np.round(np.sign(pairs.joint - pairs.expected) * root, DECIMALS)
    return signed


def _cells(both: Floats, pairs: Pairs, n_tokens: int) -> Floats:
    """`[4, pair]` tokens with both, neither, only the first, only the second."""
    one, other = pairs.one, pairs.other
    return np.stack([both, n_tokens - (one + other) + both, one - both, other - both])


def npmi(joint: Integers, expected: Floats, n_tokens: int) -> Floats:
    """Normalized pointwise mutual information, ln(O / E) / -ln(O / N).

    Args:
        joint: `[pair]` O, tokens on which both fire, 0 < O < N.
        expected: `[pair]` E > 0, `expected_joint`.
        n_tokens: N.

    Returns:
        `[pair]` in (-1, 1]: 0 at independence, 1 where neither fires without the other.

    Source: Bouma (2009), "Normalized (pointwise) mutual information in collocation extraction";
    the expectation is that of the strata.
    """
    weight: Floats = np.log(joint / expected) / -np.log(joint / n_tokens)
    return weight


def select_edges(counts: Tensor, strata: Strata, most: int, *, significant_only: bool) -> Selected:
    """The pairs with the strongest evidence, without another matrix beside the counts.

    Candidates fire together on at least `LEAST_JOINT` tokens and on more than expected.

    Args:
        counts: `[unit, unit]` int32, any device; on and below the diagonal nothing is read.
        strata: the same units on the same tokens.
        most: edges at most, at least 1; of equal ones at the limit the first by (first, second).
        significant_only: leave out candidates with evidence under `SIGNIFICANT_Z`.

    Returns:
        The same for the same counts and strata.

    Raises:
        ValueError: `most` is under 1.
    """
    if most < 1:
        raise ValueError(f"most must be >= 1, got {most}")
    strongest = _Strongest(most, SIGNIFICANT_Z if significant_only else 0.0)
    n_significant = 0
    for rows in _row_blocks(len(counts)):
        edges = _candidates(counts, strata, rows, min(strongest.floor, SIGNIFICANT_Z))
        n_significant += int(np.count_nonzero(edges.evidence >= SIGNIFICANT_Z))
        strongest.add(edges)
    return Selected(strongest.edges(), n_significant)


def _row_blocks(n_units: int) -> Iterator[slice]:
    """Rows of the upper triangle, from the top, of about `BLOCK_PAIRS` pairs together."""
    first = 0
    while first < n_units:
        last = min(first + max(BLOCK_PAIRS // (n_units - first), 1), n_units)
        yield slice(first, last)
        first = last


def _candidates(counts: Tensor, strata: Strata, rows: slice, floor: float) -> Edges:
    """Candidates of some rows, at least all those with evidence of `floor`, in their order.

    Logarithms are taken of few: evidence^2 is at most 2 z^2, because a cell's part of G2 / 2 is
    E (x ln x - x + 1) <= E (x - 1)^2, with x = O / E.
    """
    joint = counts[rows, rows.start :].cpu().numpy()
    expected, variance = expected_joint(strata, rows), joint_variance(strata, rows)
    excess = joint - expected
    plausible = (joint >= LEAST_JOINT) & (excess > LEAST_EXCESS)
    plausible[:, : len(joint)] &= ~np.tri(len(joint), dtype=bool)
    if floor > 0:
        plausible &= np.square(excess, out=excess) >= variance * (floor**2 / 2 * (1 - 1e-6))
    at = np.nonzero(plausible)
    first, second = (position + rows.start for position in at)
    margins = strata.totals[first], strata.totals[second]
    pairs = Pairs(joint[at].astype(np.int64), expected[at], variance[at], *margins)
    n_tokens = int(strata.n_tokens.sum())
    strength, weight = evidence(pairs, n_tokens), npmi(pairs.joint, pairs.expected, n_tokens)
    return _chosen(Edges(first, second, pairs.joint, strength, weight), strength > 0)


class _Strongest:
    """The strongest of edges that come ordered by (first, second), block by block."""

    def __init__(self, most: int, floor: float) -> None:
        """Keep at most `most` edges with evidence of `floor` or more."""
        self._most = most
        self.floor = floor
        none = np.empty(0, dtype=np.int64)
        self._kept = [Edges(none, none, none, np.empty(0), np.empty(0))]

    def add(self, edges: Edges) -> None:
        """Take over those that can be among the strongest."""
        self._kept.append(_chosen(edges, edges.evidence >= self.floor))
        if sum(len(edges.first) for edges in self._kept) > 2 * self._most:
            self._reduce()

    def edges(self) -> Edges:
        """The strongest, ordered."""
        self._reduce()
        (edges,) = self._kept
        return _chosen(edges, np.argsort(-edges.evidence, kind="stable"))

    def _reduce(self) -> None:
        """Drop what is not among the strongest, and raise the floor to the weakest of them."""
        edges = _joined(self._kept)
        if len(edges.first) > self._most:
            self.floor = float(np.partition(edges.evidence, -self._most)[-self._most])
            above, equal = edges.evidence > self.floor, edges.evidence == self.floor
            equal &= np.cumsum(equal) <= self._most - np.count_nonzero(above)
            edges = _chosen(edges, above | equal)
        self._kept = [edges]


def _chosen(edges: Edges, which: NDArray[np.bool_] | Integers) -> Edges:
    """Some of the edges, or another order."""
    first, second, joint, strength, weight = edges
    return Edges(first[which], second[which], joint[which], strength[which], weight[which])


def _joined(parts: list[Edges]) -> Edges:
    """One after another."""
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Edges(*columns)
