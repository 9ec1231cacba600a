"""Perplexities and what gating does to them; intervals hold the truth as often as they say."""

import math

import numpy as np
import pytest

from sdlms.dynamic.estimates import (
    FEWEST_DOCUMENTS,
    NOT_FINITE,
    ONE_DOCUMENT,
    Quality,
    doubt_of,
    estimate_of,
    quality_of,
)
from sdlms.dynamic.losses import DocumentLosses
from sdlms.dynamic.resampling import resampled
from tests.dynamic.made_losses import at_random, made, worse


def quality(
    dense: list[DocumentLosses], gated: list[DocumentLosses], task: int | None = None
) -> Quality:
    return quality_of(resampled(dense, 0), resampled(gated, 0), task)


@pytest.mark.parametrize("task", [None, 0, 1])
def test_one_seed_by_hand(task: int | None) -> None:
    dense = at_random(0)
    generator = np.random.default_rng(1)
    gated = dense._replace(sums=dense.sums * generator.uniform(1.0, 1.2, len(dense.ids)))
    own = slice(None) if task is None else dense.task == task
    before = math.exp(dense.sums[own].sum() / dense.counts[own].sum())
    after = math.exp(gated.sums[own].sum() / gated.counts[own].sum())
    found = quality([dense], [gated], task)
    assert found.perplexity.value == pytest.approx(after)
    assert found.ratio.value == pytest.approx(after / before)
    assert found.delta.value == pytest.approx(after - before)
    assert found.n_tokens == dense.counts[own].sum()
    assert found.n_documents == len(dense.counts[own])
    for estimate in found[:3]:
        assert estimate.low < estimate.value < estimate.high
        assert math.isnan(estimate.std)
    assert found.ratio.low > 1 and found.delta.low > 0  # paired: each document loses
    spread = found.perplexity.high - found.perplexity.low
    assert found.delta.high - found.delta.low < spread
    assert found.reason == ""


def test_the_same_losses_differ_by_exactly_nothing() -> None:
    seeds = [at_random(seed) for seed in range(3)]
    found = quality(seeds, seeds)
    assert found.delta == (0.0, 0.0, 0.0, 0.0)
    assert found.ratio == (1.0, 1.0, 1.0, 0.0)


def test_several_seeds_are_their_mean_and_spread() -> None:
    dense = [at_random(seed)._replace(ids=[f"{seed}-{n}" for n in range(30)]) for seed in range(3)]
    gated = [worse(one, 0.1 * (n + 1)) for n, one in enumerate(dense)]
    found = quality(dense, gated)
    single = [quality([one], [other]) for one, other in zip(dense, gated, strict=True)]
    for name in ("perplexity", "ratio", "delta"):
        values = [getattr(one, name).value for one in single]
        estimate = getattr(found, name)
        assert estimate.value == pytest.approx(np.mean(values))
        assert estimate.std == pytest.approx(np.std(values, ddof=1))
    assert found.n_documents == 90
    widths = [one.perplexity.high - one.perplexity.low for one in single]
    width = found.perplexity.high - found.perplexity.low
    assert width == pytest.approx(np.mean(widths) / math.sqrt(3), rel=0.25)


def test_seeds_that_read_the_same_documents_know_no_more() -> None:
    dense, gated = at_random(0), worse(at_random(0), 0.1)
    once, thrice = quality([dense], [gated]), quality([dense] * 3, [gated] * 3)
    assert thrice.perplexity[:3] == pytest.approx(once.perplexity[:3])
    assert thrice.n_documents == once.n_documents
    assert thrice.n_tokens == 3 * once.n_tokens


def test_other_tokens_are_refused() -> None:
    dense = at_random(0)
    with pytest.raises(ValueError, match="measured in other tokens"):
        quality([dense], [dense._replace(counts=dense.counts + 1)])


def test_a_task_of_one_document_has_a_value_and_no_interval() -> None:
    dense = made([2.0, 3.0, 4.0], [1, 1, 2], [0, 1, 1])
    found = quality([dense], [worse(dense, 0.1)], 0)
    assert found.perplexity.value == pytest.approx(math.exp(2.1))
    assert math.isnan(found.perplexity.low) and math.isnan(found.ratio.high)
    assert found.reason == ONE_DOCUMENT
    assert quality([dense], [worse(dense, 0.1)], None).reason == ONE_DOCUMENT
    assert quality([dense], [worse(dense, 0.1)], 1).reason == "interval from 2 documents"


def test_intervals_from_few_documents_are_doubted() -> None:
    counts = [FEWEST_DOCUMENTS - 1] + [FEWEST_DOCUMENTS] * 2
    task = np.repeat([0, 1, 2], counts)
    dense = resampled([made(np.ones(len(task)), np.ones(len(task), int), task)], 0)
    assert [doubt_of(dense, number) for number in (0, 1, 2)] == [
        "interval from 9 documents",
        "",
        "",
    ]
    assert doubt_of(dense, None) == "interval from 9 documents"  # documents are drawn within tasks
    enough = resampled([made(np.ones(FEWEST_DOCUMENTS), [1] * FEWEST_DOCUMENTS)], 0)
    assert doubt_of(enough, None) == doubt_of(enough, 0) == ""


def test_seeds_have_their_documents_together() -> None:
    """Six each, of which three are read by both: nine."""
    seeds = [
        at_random(seed, 6, 1)._replace(ids=[str(n + 3 * seed) for n in range(6)]) for seed in (0, 1)
    ]
    assert doubt_of(resampled(seeds, 0), 0) == "interval from 9 documents"
    assert doubt_of(resampled(seeds[:1], 0), 0) == "interval from 6 documents"


def test_few_documents_are_too_few_indeed() -> None:
    """What the reason says: an interval from three of them holds the truth too seldom."""
    held, n_sets = {3: 0, 30: 0}, 300
    generator = np.random.default_rng(4)
    for n_documents in held:
        for number in range(n_sets):
            counts = np.full(n_documents, 100)
            dense = made(counts * 2.0, counts)
            gated = dense._replace(sums=counts * (2.1 + generator.normal(0, 0.05, n_documents)))
            ratio = quality_of(resampled([dense], number), resampled([gated], number), None).ratio
            held[n_documents] += ratio.low <= math.exp(0.1) <= ratio.high
    assert held[3] / n_sets < 0.85 < 0.9 < held[30] / n_sets


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_losses_that_are_not_finite_give_no_number_and_a_reason(bad: float) -> None:
    dense = at_random(0)
    sums = dense.sums.copy()
    sums[0] = bad  # 1e9 nats: more than a perplexity can be
    found = quality([dense], [dense._replace(sums=sums)])
    assert found.reason == NOT_FINITE
    assert np.isnan([*found.perplexity, *found.ratio, *found.delta]).all()
    assert quality([dense], [dense._replace(sums=sums)], 1).reason == ""


def test_a_draw_without_a_seed_is_read_by_the_others() -> None:
    draws = np.array([[1.0, 3.0], [np.nan, 3.0], [1.0, 3.0]])
    found = estimate_of(draws, True)
    assert found.value == 2
    assert found.low == pytest.approx(2.025) and found.high == pytest.approx(2.975)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Three seeds that read half of a data set each: documents in common are counted once."""
    truth, n_sets, held, naive_held = math.exp(0.15), 200, 0, 0
    generator = np.random.default_rng(0)
    for number in range(n_sets):
        counts = generator.integers(50, 150, 60)
        nats = 2 + generator.normal(0, 0.5, 60)
        change = 0.15 + generator.normal(0, 0.1, 60)  # of documents, beside all that is shared
        dense, gated = [], []
        for _ in range(3):
            own = np.sort(generator.permutation(60)[:40])
            ids = [f"{n:02}" for n in own]
            dense.append(made((counts * nats)[own], counts[own], ids=ids))
            gated.append(made((counts * (nats + change))[own], counts[own], ids=ids))
        ratio = quality_of(resampled(dense, number), resampled(gated, number), None).ratio
        held += ratio.low <= truth <= ratio.high
        for seed in range(3):  # as if each seed's documents were its own
            dense[seed] = dense[seed]._replace(ids=[f"{seed}-{one}" for one in dense[seed].ids])
            gated[seed] = gated[seed]._replace(ids=dense[seed].ids)
        naive = quality_of(resampled(dense, number), resampled(gated, number), None).ratio
        naive_held += naive.low <= truth <= naive.high
    assert 0.90 <= held / n_sets <= 0.98
    assert naive_held / n_sets < 0.87
