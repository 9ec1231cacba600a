"""Specialization of a layer: without any, planted, and where there is none to give."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdlms.numerics.specialization import mutual_information_nats, specialization_index
from sdlms.structure.firing import DocumentCounts
from sdlms.structure.specialization import RESAMPLES, Specialization, specialize

# Tasks of unequal size, as tokens of a document on average.
LENGTHS = (40, 50, 60, 60, 70, 90)
SI_COLUMNS = [
    *("SI", "SI_low", "SI_high", "SI_plain", "SI_chance"),
    *("SI_adjusted", "SI_adjusted_low", "SI_adjusted_high"),
    *("significant_fraction", "mutual_information_nats", "split_half_reliability"),
    "firing_rate",
]
COUNTED = ["documents", "tokens", "units", "units_dead", "units_rare", "units_scored"]


def drawn(
    rates: NDArray[np.float64],
    seed: int,
    sizes: Sequence[int] = (100,) * 6,
    concentration: float = 10.0,
) -> DocumentCounts:
    """Counts of units that fire at `rates` `[task, unit]`, correlated within documents.

    A document has a rate of its own for each unit, drawn from a beta distribution around the
    task's: tokens of a document agree with each other.
    """
    generator = np.random.default_rng(seed)
    tasks = np.repeat(np.arange(len(rates)), sizes)
    lengths = np.resize(LENGTHS, len(rates))[tasks] * generator.gamma(4, 1 / 4, len(tasks))
    n_tokens = 1 + generator.poisson(lengths)
    mean = rates[tasks]
    own = generator.beta(concentration * mean, concentration * (1 - mean))
    counts = generator.binomial(n_tokens[:, None], own).astype(np.uint32)
    return DocumentCounts(counts, n_tokens, tasks, tuple(f"task{t}" for t in range(len(rates))))


def even_rates(seed: int, n_units: int, n_tasks: int = 6) -> NDArray[np.float64]:
    """Rates that differ between units and not between tasks."""
    rates = np.exp(np.random.default_rng([seed, 1]).normal(-3, 1, n_units))
    return np.tile(np.clip(rates, 0.001, 0.5), (n_tasks, 1))


def small(seed: int = 0, n_units: int = 20, sizes: Sequence[int] = (8, 7, 6)) -> DocumentCounts:
    """A few documents, units of many rates, none dead or rare by intention."""
    rates = even_rates(seed, n_units, len(sizes)) / 2 + 0.1
    rates[0, : n_units // 2] *= 2
    return drawn(rates, seed, sizes)


def specialized(counts: DocumentCounts, seed: int = 0) -> Specialization:
    return specialize(counts, seed, n_permutations=200)


def test_columns_agree_with_numbers_of_the_counts() -> None:
    counts = small()
    found = specialized(counts)
    sums, tokens = counts.task_counts, counts.task_tokens
    assert np.array_equal(found.units["fired"], sums.sum(axis=0))
    assert found.units["firing_rate"] == pytest.approx(sums.sum(axis=0) / tokens.sum())
    assert found.units["SI"] == pytest.approx(specialization_index(sums, tokens))
    information = mutual_information_nats(sums, tokens)
    assert found.units["mutual_information_nats"] == pytest.approx(information)
    adjusted = (found.units["SI"] - found.units["SI_chance"]) / (1 - found.units["SI_chance"])
    assert found.units["SI_adjusted"] == pytest.approx(adjusted)
    assert found.units["preferred_task"].dtype == np.int64
    assert all(column.shape == (20,) for column in found.units.values())


def test_rows_are_means_over_scored_units() -> None:
    counts = small()
    found = specialized(counts)
    assert list(found.rows) == ["all", "task0", "task1", "task2"]
    scored = ~(found.units["dead"] | found.units["rare"])
    for task, row in enumerate(found.rows.values(), start=-1):
        assert list(row)[:8] == [*COUNTED, "firing_rate", "SI"]
        assert set(row) == {*COUNTED, *SI_COLUMNS, "SI_reason"}
        own = scored & (np.full(20, True) if task < 0 else found.units["preferred_task"] == task)
        assert row["units_scored"] == own.sum() > 0
        assert row["units"] == (20 if task < 0 else own.sum())
        assert row["tokens"] == (counts.task_tokens.sum() if task < 0 else counts.task_tokens[task])
        assert row["documents"] == (21 if task < 0 else counts.task_documents[task])
        assert all(isinstance(row[name], int) for name in COUNTED)
        assert all(isinstance(row[name], float) for name in SI_COLUMNS)
        assert row["SI_chance"] == pytest.approx(found.units["SI_chance"][own].mean())
        for name in ("firing_rate", "SI", "SI_plain", "SI_adjusted", "mutual_information_nats"):
            assert row[name] == pytest.approx(found.units[name][own].mean())
        assert row["significant_fraction"] == np.mean(found.units["q"][own] < 0.05)
        for name in ("SI", "SI_adjusted"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_resamples_and_permutations_are_of_the_layers_mean() -> None:
    found = specialized(small())
    row = found.rows["all"]
    assert found.resamples.shape == (RESAMPLES,)
    assert found.resamples.mean() == pytest.approx(row["SI_adjusted"])
    ends = np.quantile(found.resamples, [0.025, 0.975])
    assert ends == pytest.approx((row["SI_adjusted_low"], row["SI_adjusted_high"]))
    assert found.shuffled.shape == (100,)
    assert 0 < abs(found.shuffled.mean()) < found.shuffled.std()


def test_layers_over_the_same_documents_draw_the_same_documents() -> None:
    counts = small(n_units=40)
    halves = [
        DocumentCounts(counts.counts[:, own], counts.n_tokens, counts.tasks, counts.task_names)
        for own in (slice(20), slice(20, 40))
    ]
    whole, first, second = (specialized(part) for part in (counts, *halves))
    assert whole.rows["all"]["units_scored"] == 40
    assert (first.resamples + second.resamples) / 2 == pytest.approx(whole.resamples)
    assert (first.shuffled + second.shuffled) / 2 == pytest.approx(whole.shuffled, abs=1e-7)


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (specialized(small(), seed) for seed in (1, 1, 2))
    assert repr(first.rows) == repr(again.rows) != repr(other.rows)
    for name, column in first.units.items():
        assert column.tobytes() == again.units[name].tobytes()
    assert first.resamples.tobytes() == again.resamples.tobytes() != other.resamples.tobytes()
    assert first.shuffled.tobytes() == again.shuffled.tobytes()


@given(st.permutations(range(3)))
def test_the_order_of_tasks_changes_no_index(order: list[int]) -> None:
    counts = small()
    place = np.argsort(order)[counts.tasks]
    names = tuple(counts.task_names[task] for task in order)
    found = specialized(DocumentCounts(counts.counts, counts.n_tokens, place, names))
    expected = specialized(counts)
    for name in ("SI", "SI_plain", "mutual_information_nats"):
        assert found.units[name] == pytest.approx(expected.units[name])
    preferred = [names[task] for task in found.units["preferred_task"]]
    assert preferred == [counts.task_names[task] for task in expected.units["preferred_task"]]
    for name, row in expected.rows.items():
        assert found.rows[name]["SI"] == pytest.approx(row["SI"])


def test_dead_and_rare_units_are_left_out_and_counted() -> None:
    counts = small()
    with_more = np.concatenate([np.zeros((21, 3), np.uint32), counts.counts], axis=1)
    with_more[:7, 1:3] = 7  # 49 tokens, all of task 0
    with_more[7, 2] = 1
    found = specialized(
        DocumentCounts(with_more, counts.n_tokens + 7, counts.tasks, counts.task_names)
    )
    units = found.units
    assert units["dead"].tolist() == [True] + 22 * [False]
    assert units["rare"].tolist() == [False, True] + 21 * [False]
    assert units["preferred_task"][:2].tolist() == [-1, 0]
    for name in ("SI", "SI_plain", "SI_adjusted", "SI_chance", "z", "p", "q"):
        assert np.isnan(units[name][0])
        assert np.isnan(units[name][1]) == (name == "q")
        assert np.isfinite(units[name][2:]).all()
    assert units["SI_plain"][1] == 1
    for row in found.rows.values():
        assert (row["units_dead"], row["units_rare"]) == (1, 1)
    assert found.rows["all"]["units_scored"] == 21
    assert found.rows["all"]["SI_adjusted"] == pytest.approx(units["SI_adjusted"][2:].mean())


def test_a_unit_that_always_fires_is_scored_and_not_specialized() -> None:
    counts = small()
    counts.counts[:, 0] = counts.n_tokens
    units = specialized(counts).units
    assert 0 <= units["SI"][0] < 1e-4
    assert units["SI_adjusted"][0] == pytest.approx(0, abs=1e-4)
    assert units["q"][0] > 0.05
    assert not units["rare"][0]


def degenerate(kind: str) -> DocumentCounts:
    """A layer without some number."""
    counts = small()
    if kind == "all dead":
        return DocumentCounts(0 * counts.counts, counts.n_tokens, counts.tasks, ("a", "b", "c"))
    if kind == "all rare":
        few = np.minimum(counts.counts, 1)
        return DocumentCounts(few, counts.n_tokens, counts.tasks, ("a", "b", "c"))
    if kind == "one task":
        return DocumentCounts(counts.counts, counts.n_tokens, 0 * counts.tasks, ("a",))
    sizes = {"one document each": (1, 1, 1), "one document": (1, 8, 8), "three": (3, 8, 8)}
    some = small(sizes=sizes[kind])
    return DocumentCounts(20 * some.counts, 20 * some.n_tokens, some.tasks, some.task_names)


OF_DOCUMENTS = {"SI_low", "SI_high", "SI_adjusted_low", "SI_adjusted_high"}
OF_HALVES = {"split_half_reliability"}
OF_LABELS = {"SI_chance", "SI_adjusted", "significant_fraction"}


@pytest.mark.parametrize(
    ("kind", "missing", "reason"),
    [
        ("all dead", set(SI_COLUMNS), "every unit is dead"),
        ("all rare", set(SI_COLUMNS), "no unit fires on 50 tokens"),
        ("one task", set(SI_COLUMNS) - {"firing_rate"}, "one task"),
        (
            "one document each",
            OF_DOCUMENTS | OF_HALVES | OF_LABELS,
            "every task has one document: no chance level, no interval",
        ),
        ("one document", OF_DOCUMENTS | OF_HALVES, "a task has one document: no interval"),
        ("three", OF_HALVES, "no split-half reliability with fewer than 4 documents of a task"),
    ],
)
def test_degenerate_layers_are_nan_and_say_why(kind: str, missing: set[str], reason: str) -> None:
    found = specialized(degenerate(kind))
    row = found.rows["all"]
    assert row["SI_reason"] == reason
    assert {name for name in SI_COLUMNS if math.isnan(row[name])} == missing
    assert np.isnan(found.resamples).all() == ("SI_adjusted_low" in missing)
    assert np.isnan(found.shuffled).all() == ("SI_chance" in missing)
    assert found.shuffled.shape == (100,)


def test_units_that_are_alike_have_no_reliability() -> None:
    counts = small()
    counts.counts[:] = counts.counts[:, :1]
    row = specialized(counts).rows["all"]
    assert row["SI_reason"] == "no split-half reliability: all units are alike in every half"
    assert math.isnan(row["split_half_reliability"]) and math.isfinite(row["SI_adjusted_low"])


def test_a_task_that_nobody_prefers_has_no_numbers() -> None:
    counts = small()
    counts.counts[counts.tasks == 1] = 0
    row = specialized(counts).rows["task1"]
    assert row["SI_reason"] == "no scored unit prefers this task"
    assert (row["units"], row["units_dead"], row["documents"]) == (0, 0, 7)
    assert all(math.isnan(row[name]) for name in SI_COLUMNS)


def test_two_units_have_no_reliability() -> None:
    row = specialized(small(n_units=2)).rows["all"]
    assert row["SI_reason"] == "no split-half reliability with fewer than 3 units"
    assert math.isnan(row["split_half_reliability"])
    assert row["SI_low"] < row["SI_high"]


@pytest.mark.parametrize(
    ("sizes", "concentration", "plain"),
    [((100,) * 6, 6.0, 0.02), ((40, 60, 80, 120, 140, 160), 20.0, 0.1)],
)
def test_without_specialization_the_adjusted_index_is_zero(
    sizes: Sequence[int], concentration: float, plain: float
) -> None:
    found = []
    for seed in range(6):
        counts = drawn(even_rates(seed, 200), seed, sizes, concentration)
        found.append(specialize(counts, seed, n_permutations=500).rows["all"])
    assert max(abs(row["SI_adjusted"]) for row in found) <= 0.005
    assert min(row["SI_plain"] for row in found) > plain
    reliability = np.mean([row["split_half_reliability"] for row in found])
    assert reliability == pytest.approx(0, abs=0.2)


@pytest.mark.slow
def test_few_discoveries_are_false() -> None:
    shares = []
    for seed in range(20):
        sizes = (160, 140, 120, 80, 60, 40)
        counts = drawn(even_rates(seed, 200), seed, sizes, concentration=6)
        row = specialize(counts, seed, n_permutations=5000).rows["all"]
        assert abs(row["SI_adjusted"]) <= 0.005
        shares.append(row["significant_fraction"])
    assert np.mean(shares) < 0.05


def test_planted_specialists_are_found() -> None:
    for seed in range(3):
        rates = even_rates(seed, 240)
        task = np.arange(60) % 6
        rates[task, np.arange(60)] = np.clip(4 * rates[0, :60], 0.05, 0.8)
        counts = drawn(rates, seed)
        units = specialize(counts, seed, n_permutations=2000).units
        found = (units["q"] < 0.05) & (np.resize(task, 240) == units["preferred_task"])
        assert found[:60].mean() >= 0.95
        assert (units["q"][60:] < 0.05).mean() <= 0.05


@pytest.mark.slow
def test_the_interval_covers_what_many_documents_show() -> None:
    generator = np.random.default_rng(0)
    rates = even_rates(0, 96) * np.exp(0.4 * generator.normal(size=(6, 96)))
    rates = np.clip(rates, 0.01, 0.8)
    many = np.full(6, 10**12)
    truth = specialization_index((rates * 10**12).astype(np.int64), many).mean()
    assert 0.02 < truth < 0.1
    rows = [
        specialize(drawn(rates, seed), seed, n_permutations=500).rows["all"] for seed in range(60)
    ]
    covered = [row["SI_adjusted_low"] <= truth <= row["SI_adjusted_high"] for row in rows]
    assert np.mean(covered) >= 0.88
    # Without the correction for chance the index is too high, whatever its interval.
    assert np.mean([row["SI"] for row in rows]) > truth + 0.002
