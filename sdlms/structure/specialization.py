"""How specialized the units of a layer are for tasks, against chance and with intervals."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import (
    centred,
    drawn_documents,
    percentile_interval,
    weighted_index,
)
from sdlms.numerics.false_discovery import FALSE_DISCOVERY_RATE, benjamini_hochberg
from sdlms.numerics.label_permutations import ROUNDING, chance_index
from sdlms.numerics.specialization import (
    mutual_information_nats,
    plain_index,
    preferred_task,
    specialization_index,
)
from sdlms.numerics.split_half import (
    LEAST_DOCUMENTS,
    LEAST_UNITS,
    adjusted_in_halves,
    random_halves,
    split_half_reliability,
)
from sdlms.structure.firing import ALL, DocumentCounts

PERMUTATIONS = 10_000
RESAMPLES = 1_000
HALVES = 20
# Each half of the documents gets this share of the permutations.
HALF_SHARE = 100
LEAST_IN_HALF = 10
# A unit that fires on fewer tokens in all is rare: what its index says is mostly chance.
RARE_TOKENS = 50
# Each has its own random numbers, so that one does not move the others.
PURPOSES = ("labels", "documents", "halves")

Row = dict[str, float | int | str]
Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Specialization:
    """Specialization of one layer.

    Attributes:
        units: `[unit]` each: fired, firing_rate, SI_plain, SI, SI_adjusted, SI_chance, z, p, q,
            preferred_task (index; -1 for a dead unit), mutual_information_nats, dead, rare. NaN
            where a number is not defined; q is NaN for rare units too, which are not tested.
        rows: columns of the table, of `all` and then of each task.
        resamples: `[resample]` mean SI_adjusted of the scored units in each resample of the
            documents, centred on the estimate; NaN where there is no interval. One seed draws
            the same documents for every layer over the same documents.
        shuffled: `[permutation]` mean SI_adjusted of the scored units under each permutation of
            labels in the second half of these, chance being the mean of the first half; NaN
            where labels cannot be permuted.
    """

    units: Columns
    rows: dict[str, Row]
    resamples: Floats
    shuffled: Floats

    @property
    def scored(self) -> Flags:
        """`[unit]`, neither dead nor rare."""
        return scored_units(self.units)


class _Elsewhere(NamedTuple):
    """The scored units in other documents than these."""

    resampled: Floats  # SI [resample, scored unit]
    halves: Floats | None  # SI_adjusted [2, half, scored unit]; None of too few documents


class _Layer(NamedTuple):
    """What every row of a layer is made from."""

    counts: DocumentCounts
    units: Columns
    scored: Flags
    elsewhere: _Elsewhere | None


def specialize(
    counts: DocumentCounts, seed: int, *, n_permutations: int = PERMUTATIONS
) -> Specialization:
    """Measure how specialized each unit of a layer is, and the layer as a whole.

    Args:
        counts: firing counts per document.
        seed: of permutations, resamples and halves, each with a stream of its own.
        n_permutations: of the documents' labels; fewer are enough for the mean of a curve.

    Returns:
        Units, table rows, and what intervals over several layers are made of.
    """
    units, shuffled = _units(counts, n_permutations, _stream(seed, "labels"))
    scored = scored_units(units)
    layer = _Layer(counts, units, scored, _elsewhere(counts, scored, n_permutations, seed))
    rows = {ALL: _row(layer, None)}
    rows |= {name: _row(layer, task) for task, name in enumerate(counts.task_names)}
    resamples = np.full(RESAMPLES, np.nan)
    if layer.elsewhere is not None:
        resamples = _adjusted_resamples(layer, layer.elsewhere, scored)
    return Specialization(units, rows, resamples, shuffled)


def _stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose."""
    return np.random.default_rng(seed).spawn(len(PURPOSES))[PURPOSES.index(purpose)]


def scored_units(units: Columns) -> Flags:
    """`[unit]`, neither dead nor rare."""
    scored: Flags = ~(units["dead"] | units["rare"])
    return scored


def significant_units(units: Columns) -> Floats:
    """`[unit]` 1 where q < 0.05, 0 elsewhere; NaN for those that are not tested."""
    return np.where(np.isnan(units["q"]), np.nan, units["q"] < FALSE_DISCOVERY_RATE)


def resampled_documents(counts: DocumentCounts, seed: int) -> Floats | None:
    """`[resample, document]` how often each is drawn; None where a task has none to exchange.

    A seed draws the same documents for everything that is measured in them.
    """
    if counts.n_tasks < 2 or counts.task_documents.min() < 2:
        return None
    return drawn_documents(counts.tasks, RESAMPLES, _stream(seed, "documents"))


def _units(
    counts: DocumentCounts, n_permutations: int, generator: np.random.Generator
) -> tuple[Columns, Floats]:
    """Columns of the units, and the layer's mean SI_adjusted under each permutation."""
    sums, tokens = counts.task_counts, counts.task_tokens
    fired = sums.sum(axis=0)
    dead, rare = fired == 0, (fired > 0) & (fired < RARE_TOKENS)
    defined = ~dead & (counts.n_tasks > 1)
    (mean, sd, p), shuffled = _chance(counts, defined, ~(dead | rare), n_permutations, generator)
    index = np.where(defined, specialization_index(sums, tokens), np.nan)
    z, q = np.full((2, counts.n_units), np.nan)
    np.divide(index - mean, sd, out=z, where=sd > ROUNDING)
    tested = ~(rare | np.isnan(p))
    q[tested] = benjamini_hochberg(p[tested])
    return {
        "fired": fired,
        "firing_rate": fired / tokens.sum(),
        "SI_plain": plain_index(sums),
        "SI": index,
        "SI_adjusted": (index - mean) / (1 - mean),
        "SI_chance": mean,
        "z": z,
        "p": p,
        "q": q,
        "preferred_task": np.where(dead, -1, preferred_task(sums, tokens)),
        "mutual_information_nats": np.where(defined, mutual_information_nats(sums, tokens), np.nan),
        "dead": dead,
        "rare": rare,
    }, shuffled


def _chance(
    counts: DocumentCounts,
    defined: Flags,
    scored: Flags,
    n_permutations: int,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """`[3, unit]` mean, sd, p; `[later permutation]`; NaN where labels cannot be permuted."""
    moments = np.full((3, counts.n_units), np.nan)
    if not defined.any() or counts.task_documents.max() < 2:
        return moments, np.full(n_permutations - n_permutations // 2, np.nan)
    own, averaged = counts.counts[:, defined], scored[defined]
    chance = chance_index(own, counts.n_tokens, counts.tasks, averaged, n_permutations, generator)
    moments[:, defined] = chance.mean, chance.sd, chance.p
    return moments, chance.adjusted


def _elsewhere(
    counts: DocumentCounts, scored: Flags, n_permutations: int, seed: int
) -> _Elsewhere | None:
    """Documents resampled and halved; None where documents, tasks or units are too few."""
    draws = resampled_documents(counts, seed)
    if draws is None or not scored.any():
        return None
    own, tokens, tasks = counts.counts[:, scored], counts.n_tokens, counts.tasks
    resampled = weighted_index(own, tokens, tasks, draws)
    if counts.task_documents.min() < LEAST_DOCUMENTS:
        return _Elsewhere(resampled, None)
    halves = _stream(seed, "halves")
    first = random_halves(tasks, HALVES, halves)
    n_each = max(LEAST_IN_HALF, n_permutations // HALF_SHARE)
    both = np.concatenate([first, ~first])
    adjusted = adjusted_in_halves(own, tokens, tasks, both, n_each, halves)
    return _Elsewhere(resampled, adjusted.reshape(2, HALVES, -1))


def _row(layer: _Layer, task: int | None) -> Row:
    """Columns of the whole layer, or of the scored units that prefer a task."""
    counts, units, group = layer.counts, layer.units, layer.scored
    documents, tokens = counts.task_documents, counts.task_tokens
    if task is not None:
        group = group & (units["preferred_task"] == task)
        documents, tokens = documents[[task]], tokens[[task]]
    low, high, adjusted_low, adjusted_high, reliability = _from_documents(layer, group)
    return {
        "documents": int(documents.sum()),
        "tokens": int(tokens.sum()),
        "units": counts.n_units if task is None else int(group.sum()),
        "units_dead": int(units["dead"].sum()),
        "units_rare": int(units["rare"].sum()),
        "units_scored": int(group.sum()),
        "firing_rate": mean_over(units["firing_rate"], group),
        "SI": mean_over(units["SI"], group),
        "SI_low": low,
        "SI_high": high,
        "SI_plain": mean_over(units["SI_plain"], group),
        "SI_chance": mean_over(units["SI_chance"], group),
        "SI_adjusted": mean_over(units["SI_adjusted"], group),
        "SI_adjusted_low": adjusted_low,
        "SI_adjusted_high": adjusted_high,
        "significant_fraction": mean_over(significant_units(units), group),
        "mutual_information_nats": mean_over(units["mutual_information_nats"], group),
        "split_half_reliability": reliability,
        "SI_reason": _reason(layer, group, reliability),
    }


def _from_documents(layer: _Layer, group: Flags) -> tuple[float, float, float, float, float]:
    """Intervals of SI and of SI_adjusted, and the reliability; NaN where there are none."""
    elsewhere, own = layer.elsewhere, group[layer.scored]
    if elsewhere is None or not own.any():
        return (float("nan"),) * 5
    resampled = elsewhere.resampled[:, own].mean(axis=1)
    reliability = float("nan")
    if elsewhere.halves is not None:
        reliability = split_half_reliability(*elsewhere.halves[..., own])
    return (
        *percentile_interval(centred(resampled, mean_over(layer.units["SI"], group))),
        *percentile_interval(_adjusted_resamples(layer, elsewhere, group)),
        reliability,
    )


def _adjusted_resamples(layer: _Layer, elsewhere: _Elsewhere, group: Flags) -> Floats:
    """`[resample]` mean SI_adjusted of a group, with E0 as in the data, centred."""
    chance = layer.units["SI_chance"][group]
    adjusted = (elsewhere.resampled[:, group[layer.scored]] - chance) / (1 - chance)
    return centred(adjusted.mean(axis=1), mean_over(layer.units["SI_adjusted"], group))


def mean_over(values: NDArray[Any], group: Flags) -> float:
    """Mean over a group of units; NaN without one."""
    return float(values[group].mean()) if group.any() else float("nan")


def _reason(layer: _Layer, group: Flags, reliability: float) -> str:
    """Why numbers of a row are NaN, the gravest cause; empty where all are defined."""
    documents = layer.counts.task_documents
    halves = "no split-half reliability with fewer than"
    causes = {
        "one task": len(documents) < 2,
        "every unit is dead": bool(layer.units["dead"].all()),
        f"no unit fires on {RARE_TOKENS} tokens": not layer.scored.any(),
        "no scored unit prefers this task": not group.any(),
        "every task has one document: no chance level, no interval": documents.max() < 2,
        "a task has one document: no interval": documents.min() < 2,
        f"{halves} {LEAST_DOCUMENTS} documents of a task": documents.min() < LEAST_DOCUMENTS,
        f"{halves} {LEAST_UNITS} units": group.sum() < LEAST_UNITS,
        "no split-half reliability: all units are alike in every half": math.isnan(reliability),
    }
    return next((cause for cause, holds in causes.items() if holds), "")
