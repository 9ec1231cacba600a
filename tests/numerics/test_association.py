import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, hypergeom, norm

from sdlms.numerics import association
from sdlms.numerics.association import (
    LEAST_JOINT,
    SIGNIFICANT_Z,
    Edges,
    Pairs,
    Selected,
    Strata,
    evidence,
    expected_joint,
    joint_variance,
    npmi,
    select_edges,
)


class Observed:
    """Firings in strata, with everything that is counted from them."""

    def __init__(self, firing: np.ndarray, sizes: list[int]) -> None:
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        parts = [firing[first:last] for first, last in pairwise(bounds)]
        wide = firing.astype(np.float64)
        self.joint = (wide.T @ wide).astype(np.int64)
        counts = np.array([part.sum(0, dtype=np.int64) for part in parts])
        self.strata = Strata(counts, np.array(sizes))
        self.first, self.second = np.triu_indices(firing.shape[1], k=1)
        self.pair_joint = self.joint[self.first, self.second]

    @property
    def n_tokens(self) -> int:
        return int(self.strata.n_tokens.sum())

    @property
    def pairs(self) -> Pairs:
        """Every pair, in the order of the upper triangle."""
        rows, totals = slice(0, len(self.joint)), self.strata.totals
        expected, variance = (
            f(self.strata, rows)[self.first, self.second] for f in (expected_joint, joint_variance)
        )
        margins = totals[self.first], totals[self.second]
        return Pairs(self.pair_joint, expected, variance, *margins)

    @property
    def evidence(self) -> np.ndarray:
        return evidence(self.pairs, self.n_tokens)

    def counts(self) -> torch.Tensor:
        """Below the diagonal there is rubbish."""
        rubbish = np.tril(np.full(self.joint.shape, 10**6), k=-1)
        return torch.from_numpy((np.triu(self.joint) + rubbish).astype(np.int32))

    def select(self, most: int, *, significant_only: bool) -> Selected:
        return select_edges(self.counts(), self.strata, most, significant_only=significant_only)


def observed(
    n_units: int, sizes: list[int], seed: int = 0, n_modules: int = 4, shared: float = 0.15
) -> Observed:
    """Units with rates of their own, driven in modules on some tokens."""
    generator = np.random.default_rng(seed)
    rates = generator.uniform(0.02, 0.3, n_units)
    driven = generator.random((sum(sizes), n_modules)) < shared
    modules = np.arange(n_units) % n_modules
    chance = np.clip(rates + 0.4 * driven[:, modules], 0, 1)
    return Observed(generator.random((sum(sizes), n_units)) < chance, sizes)


def looped(found: Observed) -> dict[str, list[float]]:
    """Everything, pair by pair, from the definitions."""
    counts, sizes = found.strata.counts, found.strata.n_tokens
    total = int(sizes.sum())
    columns: dict[str, list[float]] = {name: [] for name in ("E", "V", "evidence", "npmi")}
    for i, j, joint in zip(found.first, found.second, found.pair_joint, strict=True):
        expected = variance = 0.0
        for row, n in zip(counts.tolist(), sizes.tolist(), strict=True):
            if n < 2:  # a token alone is as expected
                expected += row[i] * row[j]
                continue
            expected += row[i] * row[j] / n
            variance += row[i] * (n - row[i]) * row[j] * (n - row[j]) / (n * n * (n - 1))
        one, other = int(counts[:, i].sum()), int(counts[:, j].sum())
        seen = [joint, one - joint, other - joint, total - one - other + joint]
        awaited = [expected, one - expected, other - expected, total - one - other + expected]
        g2 = 2 * sum(o * math.log(o / e) for o, e in zip(seen, awaited, strict=True) if o > 0)
        scale = 1 / sum(1 / e for e in awaited) / variance
        columns["E"].append(expected)
        columns["V"].append(variance)
        columns["evidence"].append(math.copysign(math.sqrt(g2 * scale), joint - expected))
        rarity = -math.log(joint / total) if joint else math.nan
        columns["npmi"].append(math.log(max(joint, 1) / expected) / rarity)
    return columns


def test_everything_agrees_with_a_loop() -> None:
    found = observed(30, [300, 150, 50, 1, 0])
    pairs, loop = found.pairs, looped(found)
    np.testing.assert_allclose(pairs.expected, loop["E"], rtol=1e-12)
    np.testing.assert_allclose(pairs.variance, loop["V"], rtol=1e-12)
    np.testing.assert_allclose(found.evidence, loop["evidence"], rtol=1e-6)
    some = found.pair_joint > 0
    weight = npmi(found.pair_joint[some], pairs.expected[some], found.n_tokens)
    np.testing.assert_allclose(weight, np.array(loop["npmi"])[some], rtol=1e-9)


def test_rows_are_those_of_the_whole_matrix() -> None:
    strata = observed(30, [300, 150, 50]).strata
    for matrix in (expected_joint, joint_variance):
        whole = matrix(strata, slice(0, 30))
        np.testing.assert_allclose(whole, whole.T, rtol=1e-12)
        np.testing.assert_allclose(matrix(strata, slice(7, 12)), whole[7:12, 7:], rtol=1e-12)


@given(st.integers(2, 60), st.data())
def test_one_stratum_is_hypergeometric(n_tokens: int, data: st.DataObject) -> None:
    count = st.integers(0, n_tokens)
    one, other = data.draw(count), data.draw(count)
    strata = Strata(np.array([[one, other]]), np.array([n_tokens]))
    joint = np.arange(n_tokens + 1)
    chance = hypergeom(n_tokens, one, other).pmf(joint)
    mean = (chance * joint).sum()
    variance = (chance * (joint - mean) ** 2).sum()
    np.testing.assert_allclose(expected_joint(strata, slice(0, 2))[0, 1], mean, rtol=1e-9)
    np.testing.assert_allclose(
        joint_variance(strata, slice(0, 2))[0, 1], variance, rtol=1e-9, atol=1e-9
    )


def test_one_stratum_is_g2_rescaled() -> None:
    found = observed(20, [400])
    ours = found.evidence
    for pair, (i, j) in enumerate(zip(found.first, found.second, strict=True)):
        joint, one, other = found.pair_joint[pair], found.joint[i, i], found.joint[j, j]
        table = [[joint, one - joint], [other - joint, 400 - one - other + joint]]
        outside = chi2_contingency(table, correction=False, lambda_="log-likelihood")
        # The variance of independence divides by N - 1, that of G2 by N.
        assert ours[pair] ** 2 == pytest.approx(outside.statistic * 399 / 400, rel=1e-6, abs=1e-9)
        assert np.sign(ours[pair]) == np.sign(joint - outside.expected_freq[0, 0])


def test_small_deviations_give_the_z_of_cochran_mantel_and_haenszel() -> None:
    strata = Strata(np.array([[300_000, 500_000], [40_000, 10_000]]), np.array([10**6, 10**5]))
    expected, variance = (
        matrix(strata, slice(0, 2))[:1, 1] for matrix in (expected_joint, joint_variance)
    )
    joint = np.array([154_100])
    z = (joint - expected) / np.sqrt(variance)
    assert 0.3 < z[0] < 3
    pairs = Pairs(joint, expected, variance, strata.totals[:1], strata.totals[1:])
    assert evidence(pairs, 1_100_000) == pytest.approx(z, rel=2e-3)


def test_evidence_is_at_most_root_two_z() -> None:
    found = observed(40, [60, 40], n_modules=2, shared=0.5)
    z = (found.pair_joint - found.pairs.expected) / np.sqrt(found.pairs.variance)
    above = z > 0
    assert (found.evidence[above] <= math.sqrt(2) * z[above]).all()


def test_units_that_never_or_always_fire_have_no_evidence() -> None:
    firing = np.zeros((50, 4), dtype=bool)
    firing[:, 1] = True
    firing[:20, 2:] = True
    found = Observed(firing, [50])
    values = found.evidence
    assert np.isnan(values[:-1]).all()
    assert values[-1] > SIGNIFICANT_Z


def test_evidence_of_independent_units_is_calibrated_where_z_is_not() -> None:
    """5,000 tokens, expected joint counts of about 20: how often 3 is passed, of 400,000 pairs."""
    generator = np.random.default_rng(0)
    firing = generator.random((5_000, 900)) < 0.063
    found = Observed(firing, [2_500, 1_500, 1_000])
    z = (found.pair_joint - found.pairs.expected) / np.sqrt(found.pairs.variance)
    nominal = norm.sf(3) * len(z)
    assert 0.7 < (found.evidence >= 3).sum() / nominal < 1.2
    assert (z >= 3).sum() / nominal > 1.4


def test_strata_remove_what_their_rates_explain() -> None:
    generator = np.random.default_rng(0)
    rates = np.repeat([0.3, 0.02], 2_000)
    firing = generator.random((4_000, 30)) < rates[:, None]
    within, pooled = Observed(firing, [2_000, 2_000]), Observed(firing, [4_000])
    assert within.select(1000, significant_only=True).n_significant == 0
    assert pooled.select(1000, significant_only=True).n_significant == len(pooled.first)


def test_documents_remove_what_their_topics_explain() -> None:
    """Units of a topic fire in the same documents, there independently."""
    generator = np.random.default_rng(0)
    of_topic = generator.integers(0, 4, (200, 1)) == np.arange(24) % 4
    rates = np.repeat(np.where(of_topic, 0.3, 0.05), 50, axis=0)
    firing = generator.random(rates.shape) < rates
    within, by_task = Observed(firing, [50] * 200), Observed(firing, [6_000, 4_000])
    assert within.select(1000, significant_only=True).n_significant <= 1
    assert by_task.select(1000, significant_only=True).n_significant == 4 * 15


def by_full_sort(found: Observed, most: int, least: float) -> Edges:
    """All pairs, all evidence, one sort."""
    expected, joint, values = found.pairs.expected, found.pair_joint, found.evidence
    candidate = (joint >= LEAST_JOINT) & (joint - expected > 1e-6) & (values >= least)
    order = np.lexsort((found.second, found.first, -values))
    order = order[candidate[order]][:most]
    weight = npmi(joint[order], expected[order], found.n_tokens)
    return Edges(found.first[order], found.second[order], joint[order], values[order], weight)


def assert_same(ours: Edges, other: Edges) -> None:
    for name, column, expected in zip(Edges._fields, ours, other, strict=True):
        assert column.dtype == expected.dtype, name
        if name == "weight":
            np.testing.assert_allclose(column, expected, rtol=1e-9)
        else:
            assert np.array_equal(column, expected), name


@pytest.mark.parametrize("significant_only", [True, False])
@pytest.mark.parametrize("most", [1, 7, 200, 10**6])
@pytest.mark.parametrize("block", [1, 90, 1000, 1 << 20])
def test_selection_agrees_with_a_full_sort(
    most: int, block: int, significant_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(association, "BLOCK_PAIRS", block)
    found = observed(70, [800, 500, 200])
    selected = found.select(most, significant_only=significant_only)
    least = SIGNIFICANT_Z if significant_only else 0
    assert_same(selected.edges, by_full_sort(found, most, least))
    significant = len(by_full_sort(found, 10**6, SIGNIFICANT_Z).first)
    assert selected.n_significant == significant > 100
    assert ((selected.edges.weight > 0) & (selected.edges.weight <= 1)).all()


@pytest.mark.parametrize("most", [1, 2, 3, 100, 500])
@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_ties_go_to_the_first_pairs(most: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unit eight times, shuffled: every evidence many times."""
    monkeypatch.setattr(association, "BLOCK_PAIRS", block)
    few = np.random.default_rng(1).random((300, 5)) < 0.3
    order = np.random.default_rng(2).permutation(40)
    found = Observed(np.repeat(few, 8, axis=1)[:, order], [100, 200])
    selected = found.select(most, significant_only=False)
    assert_same(selected.edges, by_full_sort(found, most, 0))
    assert len(np.unique(found.select(500, significant_only=False).edges.evidence)) <= 15


@given(st.integers(0, 12), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 9))
def test_any_input_gives_the_edges_of_a_full_sort(
    n_units: int, sizes: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    rates = generator.choice([0.0, 0.2, 0.5, 0.9, 1.0], n_units)
    found = Observed(generator.random((sum(sizes), n_units)) < rates, sizes)
    selected = found.select(3, significant_only=False)
    assert_same(selected.edges, by_full_sort(found, 3, 0))


@pytest.mark.parametrize("n_units", [0, 1, 3])
@pytest.mark.parametrize("fires", [False, True])
def test_units_that_fire_never_or_always_have_no_edges(n_units: int, fires: bool) -> None:
    found = Observed(np.full((40, n_units), fires), [30, 10])
    edges, n_significant = found.select(10, significant_only=False)
    assert n_significant == 0
    assert [len(column) for column in edges] == [0] * 5


def test_units_that_only_fire_together_have_weight_one() -> None:
    firing = np.zeros((100, 2), dtype=bool)
    firing[:30] = True
    edges, n_significant = Observed(firing, [100]).select(5, significant_only=True)
    assert n_significant == 1
    assert edges.weight[0] == pytest.approx(1)
    assert edges.joint[0] == 30


def test_pairs_with_few_joint_firings_are_no_candidates() -> None:
    firing = np.zeros((1000, 3), dtype=bool)
    firing[: LEAST_JOINT - 1, 0] = firing[:LEAST_JOINT, 1:] = True
    edges, n_significant = Observed(firing, [1000]).select(5, significant_only=True)
    assert (edges.first.tolist(), edges.second.tolist(), n_significant) == ([1], [2], 1)


def test_fewer_than_one_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="most must be >= 1"):
        observed(3, [50]).select(0, significant_only=True)
