"""The table of what gating does to specialized neurons: `specialized_units.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdlms.dynamic.document_draws import DocumentDraws, Draws, cells, with_interval
from sdlms.numerics.document_bootstrap import UNKNOWN, Estimate
from sdlms.runs.parts import Part

Row = dict[str, Any]

COLUMNS = [
    *("rule", "k", "task", "n_neurons"),
    *("in_task_documents", "in_task_tokens", "off_task_documents", "off_task_tokens"),
    *("kept_in_task", "kept_off_task", *with_interval("kept_difference")),
    *("others_kept_in_task", "others_kept_off_task"),
    *with_interval("in_task_delta_nats"),
    *with_interval("off_task_delta_nats"),
    *with_interval("difference_nats"),
    *("random_sets", "random_kept_in_task"),
    *with_interval("random_in_task_delta_nats"),
    *with_interval("random_off_task_delta_nats"),
    *with_interval("excess_nats"),
    *("reading", "reason"),
]

ONLY = "hurts its task, no change seen elsewhere"
HELPS_OTHERS = "hurts its task, helps elsewhere"
MOST = "hurts its task more than others"
ALIKE = "hurts its task, not told apart from others"
OTHERS_MORE = "hurts others more than its task"
ANY_NEURONS = "not told apart from random neurons"
NOTHING = "no change seen"
LESS = "matters less than random neurons"
HELPS = "helps its task"
UNDECIDED = "undecided"
NO_NEURON = "no specialized neuron"

ABOVE, HOLDING, BELOW = 1, 0, -1  # where an interval lies, or that 0 is in it, its ends too
# By the change in the task and its excess; where both are above 0, the other two decide.
READINGS = {
    (ABOVE, HOLDING): ANY_NEURONS,
    (ABOVE, BELOW): LESS,
    (HOLDING, ABOVE): NOTHING,
    (HOLDING, HOLDING): NOTHING,
    (HOLDING, BELOW): LESS,
    (BELOW, ABOVE): HELPS,
    (BELOW, HOLDING): ANY_NEURONS,
    (BELOW, BELOW): HELPS,
}
# By the change elsewhere, where the difference is above 0.
ELSEWHERE = {ABOVE: MOST, HOLDING: ONLY, BELOW: HELPS_OTHERS}


class Effects(NamedTuple):
    """Changes of the loss where the specialists of a task may not be kept, nats per token.

    Attributes:
        own: in the task.
        elsewhere: in all other tasks.
        difference: the first less the second.
        excess: the first less that of random neurons.
    """

    own: Estimate
    elsewhere: Estimate
    difference: Estimate
    excess: Estimate


def reading_of(effects: Effects) -> str:
    """What dropping the specialists of a task does, as far as intervals show it.

    An interval that holds 0 tells nothing apart, and is no evidence that nothing is there.

    | in the task | excess | difference | elsewhere | reading |
    |---|---|---|---|---|
    | above 0 | above 0 | above 0 | holds 0 | hurts its task, no change seen elsewhere |
    | above 0 | above 0 | above 0 | below 0 | hurts its task, helps elsewhere |
    | above 0 | above 0 | above 0 | above 0 | hurts its task more than others |
    | above 0 | above 0 | holds 0 | any | hurts its task, not told apart from others |
    | above 0 | above 0 | below 0 | any | hurts others more than its task |
    | above 0, below 0 | holds 0 | any | any | not told apart from random neurons |
    | holds 0 | above 0, holds 0 | any | any | no change seen |
    | above 0, holds 0 | below 0 | any | any | matters less than random neurons |
    | below 0 | above 0, below 0 | any | any | helps its task |

    It is undecided where an interval that is needed does not exist.
    """
    own, excess = _place(effects.own), _place(effects.excess)
    if own is None or excess is None:
        return UNDECIDED
    if (own, excess) != (ABOVE, ABOVE):
        return READINGS[own, excess]
    difference, elsewhere = _place(effects.difference), _place(effects.elsewhere)
    if difference is None or elsewhere is None:
        return UNDECIDED
    if difference == ABOVE:
        return ELSEWHERE[elsewhere]
    return ALIKE if difference == HOLDING else OTHERS_MORE


def _place(found: Estimate) -> int | None:
    """Where an interval lies; None where there is none."""
    if isnan(found.low):
        return None
    return ABOVE if found.low > 0 else BELOW if found.high < 0 else HOLDING


def rows_of(parts: Sequence[Part], seed: int) -> Iterator[Row]:
    """Rows by `COLUMNS`: for each part, which is a rule and a kept share, one for each task.

    Intervals resample documents within tasks, the same for all columns of a part. Where random
    neurons are in them, they are of one more random set: Student's t over the sets is added, with
    their standard deviation and one degree of freedom less than there are sets.

    Args:
        parts: of `Specialists.measure`.
        seed: of the draws.
    """
    for part in parts:
        table = _Table(part, DocumentDraws.of(part["document_tasks"], seed), seed)
        for task in part["tasks"]:
            yield table.row(task)


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows of one part.

    Attributes:
        part: what was measured.
        draws: of its documents.
        seed: of the draws.
    """

    part: Part
    draws: DocumentDraws
    seed: int

    def row(self, name: str) -> Row:
        """One task's row."""
        found = self.part["tasks"][name]
        inside = self.draws.tasks == self.part["task_names"].index(name)
        effects, random = self._effects(found, inside)
        reading = reading_of(effects) if found["n_neurons"] else NO_NEURON
        return {
            "rule": self.part["rule"],
            "k": self.part["keep"],
            "task": name,
            "n_neurons": found["n_neurons"],
            **self._sizes(inside),
            **self._kept(found, inside),
            **cells("in_task_delta_nats", effects.own),
            **cells("off_task_delta_nats", effects.elsewhere),
            **cells("difference_nats", effects.difference),
            "random_sets": len(found["random_changes"]),
            "random_kept_in_task": _mean(found["random_kept"]),
            **cells("random_in_task_delta_nats", random[0]),
            **cells("random_off_task_delta_nats", random[1]),
            **cells("excess_nats", effects.excess),
            "reading": reading,
            "reason": self._reason(found, inside),
        }

    def _sizes(self, inside: NDArray[np.bool_]) -> Row:
        """What was scored in the task and elsewhere."""
        found: Row = {}
        for where, own in (("in_task", inside), ("off_task", ~inside)):
            found[f"{where}_documents"] = int(own.sum())
            found[f"{where}_tokens"] = int(np.array(self.part["tokens"])[own].sum())
        return found

    def _kept(self, found: Mapping[str, Any], inside: NDArray[np.bool_]) -> Row:
        """Which share of tokens keeps a specialist of the task, and any other neuron."""
        n_own, n_all = found["n_neurons"], self.part["n_neurons"]
        own = np.array(found["kept"])
        rest = np.array(self.part["kept"]) - own
        here, there, others_here, others_there = (
            self._per_token(counts / n if n else np.full(len(own), nan), where)
            for counts, n in ((own, n_own), (rest, n_all - n_own))
            for where in (inside, ~inside)
        )
        return {
            "kept_in_task": float(here[0]),
            "kept_off_task": float(there[0]),
            **cells("kept_difference", self.draws.estimate(here - there, np.ones_like(inside))),
            "others_kept_in_task": float(others_here[0]),
            "others_kept_off_task": float(others_there[0]),
        }

    def _effects(
        self, found: Mapping[str, Any], inside: NDArray[np.bool_]
    ) -> tuple[Effects, tuple[Estimate, Estimate]]:
        """Changes under the specialists; and those under random neurons, in the task and not."""
        if found["changes"] is None:
            return Effects(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), (UNKNOWN, UNKNOWN)
        everywhere = np.ones_like(inside)
        changes = np.array(found["changes"])
        own, off = (self._per_token(changes, where) for where in (inside, ~inside))
        random = [self._any_set(found["random_changes"], where) for where in (inside, ~inside)]
        effects = Effects(
            own=self.draws.estimate(own, inside),
            elsewhere=self.draws.estimate(off, ~inside),
            difference=self.draws.estimate(own - off, everywhere),
            excess=self.draws.estimate(own - random[0], inside),
        )
        return effects, (
            self.draws.estimate(random[0], inside),
            self.draws.estimate(random[1], ~inside),
        )

    def _any_set(self, changes: Sequence[Sequence[float]], where: NDArray[np.bool_]) -> Draws:
        """`[draw]` change per token under random neurons: the mean over sets for the data.

        In each resample that of one more set, by Student's t; NaN for fewer than two sets.
        """
        n_sets = len(changes)
        if n_sets < 2:
            return np.full(len(self.draws.weights), nan)
        each = np.stack([self._per_token(np.array(one), where) for one in changes])
        deviation = each[:, 0].std(ddof=1) * (1 + 1 / n_sets) ** 0.5
        generator = np.random.default_rng([self.seed, 1])
        scatter = deviation * generator.standard_t(n_sets - 1, size=len(self.draws.weights))
        scatter[0] = 0
        found: Draws = each.mean(axis=0) + scatter
        return found

    def _per_token(self, sums: ArrayLike, where: NDArray[np.bool_]) -> Draws:
        """`[draw]`: `[document]` sums over the tokens of some documents; NaN without any."""
        return self.draws.ratio(sums, self.part["tokens"], where)

    def _reason(self, found: Mapping[str, Any], inside: NDArray[np.bool_]) -> str:
        """Why something is NaN; empty where nothing is."""
        names = self.part["task_names"]
        if not found["n_neurons"]:
            return "no scored neuron with q < 0.05 prefers the task"
        if inside.all() or not inside.any():
            return f"no token of {'another' if inside.all() else 'the'} task is scored"
        if not np.isfinite([found["changes"], *found["random_changes"]]).all():
            return "a loss is not finite"
        if len(found["random_changes"]) < 2:
            return "too few other neurons for random sets"
        single = [names[task] for task in np.flatnonzero(np.bincount(self.draws.tasks) == 1)]
        return f"no interval from one document: {', '.join(single)}" if single else ""


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers)) if numbers else nan
