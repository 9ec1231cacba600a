"""What units keep under permuted tokens, against loops over units and resamples."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sdlms.numerics.specialization import specialization_index
from sdlms.structure.firing import DocumentCounts
from sdlms.structure.specialization import resampled_documents, specialize
from sdlms.structure.token_identity import Measured, token_identity

TASKS = ("a", "b", "c")
SIZES = (14, 12, 10)


def counts_of(rates: np.ndarray, seed: int, sizes: tuple[int, ...] = SIZES) -> DocumentCounts:
    """Counts of units that fire at `[task, unit]`; documents are the same for every seed."""
    tasks = np.repeat(np.arange(3), sizes)
    n_tokens = np.random.default_rng(0).integers(40, 80, len(tasks))
    counts = np.random.default_rng(seed).binomial(n_tokens[:, None], rates[tasks])
    return DocumentCounts(counts.astype(np.uint32), n_tokens, tasks, TASKS)


def measured(rates: np.ndarray, seed: int, sizes: tuple[int, ...] = SIZES) -> Measured:
    counts = counts_of(rates, seed, sizes)
    return Measured(counts, specialize(counts, 0, n_permutations=100))


def special(n_units: int, factor: float) -> np.ndarray:
    """Each unit fires `factor` times as often in one task, in turn."""
    rates = np.full((3, n_units), 0.1)
    rates[np.arange(n_units) % 3, np.arange(n_units)] *= factor
    return rates


@pytest.fixture
def pair() -> tuple[Measured, Measured]:
    own, kept = special(18, 4.0), special(18, 2.0)
    own[:, 0], kept[:, 1] = 0, 0  # each has a dead unit
    kept[:, 3] = kept[[1, 2, 0], 3]  # prefers another task
    return measured(own, 1), measured(kept, 2)


def test_a_run_keeps_all_of_itself(pair: tuple[Measured, Measured]) -> None:
    own, _ = pair
    for task, row in token_identity(own, own, 0).items():
        assert row["token_identity_fraction"] == 1
        assert row["token_identity_fraction_low"] == row["token_identity_fraction_high"] == 1
        for column in ("SI_adjusted", "SI_adjusted_low", "SI_adjusted_high"):
            permuted = row[column.replace("adjusted", "adjusted_permuted")]
            assert permuted == pytest.approx(own.found.rows[task][column])


def test_both_means_are_over_the_units_that_the_model_has_for_a_task(
    pair: tuple[Measured, Measured],
) -> None:
    own, kept = pair
    rows = token_identity(own, kept, 0)
    assert list(rows) == ["all", *TASKS]
    preferred = own.found.units["preferred_task"]
    assert preferred[3] != kept.found.units["preferred_task"][3]
    for task, row in enumerate(rows.values(), start=-1):
        group = [u for u in range(2, 18) if task in (-1, preferred[u])]
        means = [each.found.units["SI_adjusted"][group].mean() for each in pair]
        assert row["SI_adjusted_permuted"] == pytest.approx(means[1])
        assert row["token_identity_fraction"] == pytest.approx(means[1] / means[0])
        significant = (kept.found.units["q"][group] < 0.05).mean()
        assert row["significant_fraction_permuted"] == significant


def test_the_interval_is_that_of_documents_drawn_for_both(pair: tuple[Measured, Measured]) -> None:
    row = token_identity(*pair, seed=5)["all"]
    weights = resampled_documents(pair[0].counts, 5)
    assert weights is not None
    draws = []
    for counts, found in pair:
        members = [counts.tasks == task for task in range(3)]
        index = [
            specialization_index(
                np.array([own[some] @ counts.counts[some][:, 2:] for some in members]),
                np.array([own[some] @ counts.n_tokens[some] for some in members]),
            )
            for own in weights
        ]
        chance = found.units["SI_chance"][2:]
        means = ((np.array(index) - chance) / (1 - chance)).mean(axis=1)
        draws.append(means - means.mean() + found.units["SI_adjusted"][2:].mean())
    ends = np.quantile(draws[1] / draws[0], [0.025, 0.975])
    assert (row["token_identity_fraction_low"], row["token_identity_fraction_high"]) == (
        pytest.approx(ends[0]),
        pytest.approx(ends[1]),
    )
    low, high = np.quantile(draws[1], [0.025, 0.975])
    assert row["SI_adjusted_permuted_low"] == pytest.approx(low)
    assert row["SI_adjusted_permuted_high"] == pytest.approx(high)
    assert ends[0] < row["token_identity_fraction"] < ends[1]


def test_nothing_is_a_share_of_what_may_be_nothing() -> None:
    even = measured(special(18, 1.0), 1)
    row = token_identity(even, measured(special(18, 2.0), 2), 0)["all"]
    assert even.found.rows["all"]["SI_adjusted_low"] <= 0
    assert math.isfinite(row["SI_adjusted_permuted_low"])
    for end in ("", "_low", "_high"):
        assert math.isnan(float(row[f"token_identity_fraction{end}"]))


def test_without_documents_to_exchange_or_units_there_is_no_interval() -> None:
    few = [measured(special(9, 3.0), seed, (1, 12, 12)) for seed in (1, 2)]
    row = token_identity(few[0], few[1], 0)["all"]
    assert math.isfinite(row["SI_adjusted_permuted"])
    own = measured(special(9, 3.0), 1)
    silent = replace(own.counts, counts=0 * own.counts.counts)
    dead = Measured(silent, specialize(silent, 0, n_permutations=100))
    for found in (row, *token_identity(own, dead, 0).values()):
        for name, value in found.items():
            if name.endswith(("_low", "_high")) or "identity" in name:
                assert math.isnan(float(value)), name
