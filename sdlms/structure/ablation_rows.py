"""The tables of an ablation: `ablation.csv` and `ablation_matrix.csv`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import UNKNOWN, Estimate
from sdlms.structure.ablation_effects import Draws, Effects
from sdlms.structure.ablation_sets import TaskSets
from sdlms.structure.tables import with_interval

Row = dict[str, Any]
Selection = Literal["specialized", "random"]


COLUMNS = [
    *("layer", "task", "selection", "n_units", "sets", "fired_mean"),
    *("in_task_documents", "in_task_tokens", "off_task_documents", "off_task_tokens"),
    *with_interval("in_task_delta_nats"),
    *with_interval("off_task_delta_nats"),
    *with_interval("difference_nats"),
    *with_interval("excess_nats"),
    *("random_reaching", "reading", "reason"),
]
MATRIX_COLUMNS = [
    *("layer", "ablated_task", "selection", "evaluated_task"),
    *with_interval("delta_nats"),
]

SPECIFIC = "causal, task-specific"
ANY_TASK = "causal, not told apart from other tasks"
UNSPECIFIC = "causal, not task-specific"
ANY_UNITS = "not told apart from random units"
CORRELATION = "correlation only"
HELPS = "helps when ablated"
LESS = "matters less than random units"
UNDECIDED = "undecided"
NO_UNIT = "no unit"

ABOVE, HOLDING, BELOW = 1, 0, -1  # where an interval lies, or that 0 is in it, its ends too
CAUSAL = {ABOVE: SPECIFIC, HOLDING: ANY_TASK, BELOW: UNSPECIFIC}  # by the difference
# By the change in the task and its excess; where both are above 0, `CAUSAL` says it.
READINGS = {
    (ABOVE, HOLDING): ANY_UNITS,
    (ABOVE, BELOW): LESS,
    (HOLDING, ABOVE): CORRELATION,  # random units help when ablated
    (HOLDING, HOLDING): CORRELATION,
    (HOLDING, BELOW): LESS,
    (BELOW, ABOVE): HELPS,  # random units help more
    (BELOW, HOLDING): ANY_UNITS,
    (BELOW, BELOW): HELPS,
}


def reading_of(delta: Estimate, difference: Estimate, excess: Estimate) -> str:
    """What the specialized units of a task are to its loss.

    Where each interval lies decides; an interval that holds 0 tells nothing apart, and is no
    evidence that nothing is there.

    | in the task | excess | difference | reading |
    |---|---|---|---|
    | above 0 | above 0 | above 0 | causal, task-specific |
    | above 0 | above 0 | holds 0 | causal, not told apart from other tasks |
    | above 0 | above 0 | below 0 | causal, not task-specific |
    | above 0, below 0 | holds 0 | any | not told apart from random units |
    | holds 0 | above 0, holds 0 | any | correlation only |
    | above 0, holds 0 | below 0 | any | matters less than random units |
    | below 0 | above 0, below 0 | any | helps when ablated |

    It is undecided where one of the first two has no interval, or the difference has none where
    the others are above 0.

    Args:
        delta: change of the loss in the task, nats per token.
        difference: that less the change in all other tasks.
        excess: the first less the change under any random units.
    """
    own, more = _place(delta), _place(excess)
    if own is None or more is None:
        return UNDECIDED
    if (own, more) != (ABOVE, ABOVE):
        return READINGS[own, more]
    here = _place(difference)
    return UNDECIDED if here is None else CAUSAL[here]


def _place(found: Estimate) -> int | None:
    """Where an interval lies; None where there is none."""
    if isnan(found.low):
        return None
    return ABOVE if found.low > 0 else BELOW if found.high < 0 else HOLDING


@dataclass(frozen=True, eq=False)
class Tables:
    """The rows of one layer.

    Attributes:
        layer: from 0.
        task_names: in the order of tasks.
        sets: of each task.
        fired: `[unit]` tokens on which each unit of the layer fires.
        places: a set's units -> its place among those that were ablated.
        effects: of all of these; None where no task has a unit.
    """

    layer: int
    task_names: Sequence[str]
    sets: Sequence[TaskSets]
    fired: NDArray[np.int64]
    places: dict[tuple[int, ...], int]
    effects: Effects | None

    def rows(self) -> Iterator[Row]:
        """By `COLUMNS`: for each task its specialized units, then the random ones.

        A random row has the mean over its sets, and beside it the interval of one more such set:
        what a single set, as the specialized one is, could be if it were random.
        """
        for task, own in enumerate(self.sets):
            specialized, random = self._changes(own)
            yield self._row(task, "specialized", specialized, random)
            yield self._row(task, "random", random, None)

    def matrix(self) -> Iterator[Row]:
        """By `MATRIX_COLUMNS`: what ablating the units of one task does to each task."""
        for task, own in enumerate(self.sets):
            selections: tuple[Selection, ...] = ("specialized", "random")
            for selection, changes in zip(selections, self._changes(own), strict=True):
                for other, name in enumerate(self.task_names):
                    yield {
                        "layer": self.layer,
                        "ablated_task": self.task_names[task],
                        "selection": selection,
                        "evaluated_task": name,
                        **_cells("delta_nats", self._estimate(changes, self._only(other))),
                    }

    def _changes(self, own: TaskSets) -> tuple[Draws | None, Draws | None]:
        """`[draw, task]` summed changes under specialized and under random units, if any."""
        if self.effects is None or not len(own.specialized):
            return None, None
        specialized = self.effects.of(self.places[tuple(own.specialized.tolist())])
        random = [self.places[tuple(units.tolist())] for units in own.random]
        return specialized, self.effects.of_any(random) if random else None

    def _row(
        self, task: int, selection: Selection, changes: Draws | None, baseline: Draws | None
    ) -> Row:
        """One row; `baseline` is what its changes are compared with."""
        inside, own = self._only(task), self.sets[task]
        delta, off = self._estimate(changes, inside), self._estimate(changes, ~inside)
        difference, excess, compared = self._difference(changes, inside), UNKNOWN, changes
        if changes is not None and baseline is not None:
            compared = changes - baseline
            excess = self._estimate(compared, inside)
        is_random = selection == "random"
        reading = "" if is_random else reading_of(delta, difference, excess)
        return {
            "layer": self.layer,
            "task": self.task_names[task],
            "selection": selection,
            "n_units": len(own.specialized),
            "sets": 0 if changes is None else len(own.random) if is_random else 1,
            "fired_mean": self._fired_mean(own.random if is_random else [own.specialized]),
            **self._sizes(inside),
            **_cells("in_task_delta_nats", delta),
            **_cells("off_task_delta_nats", off),
            **_cells("difference_nats", difference),
            **_cells("excess_nats", excess),
            "random_reaching": nan if is_random else self._reaching(task),
            "reading": reading if is_random or len(own.specialized) else NO_UNIT,
            "reason": own.reason or self._reason(compared, inside),
        }

    def _fired_mean(self, sets: Sequence[NDArray[np.int64]]) -> float:
        """Tokens on which a unit of these sets fires; NaN without any."""
        units = np.concatenate([*sets, np.empty(0, np.int64)])
        return float(self.fired[units].mean()) if len(units) else nan

    def _reaching(self, task: int) -> float:
        """Share of the random sets that change the loss in the task by no less; NaN without any."""
        own, (specialized, _) = self.sets[task], self._changes(self.sets[task])
        if self.effects is None or specialized is None or not own.random:
            return nan
        if not self.effects.documents[task]:
            return nan
        random = [self.effects.of(self.places[tuple(units.tolist())]) for units in own.random]
        found = np.array([changes[0, task] for changes in random])
        reached = specialized[0, task]
        known = np.isfinite(found).all() and np.isfinite(reached)
        return float((found >= reached).mean()) if known else nan

    def _only(self, task: int) -> NDArray[np.bool_]:
        """`[task]`, True for one."""
        only: NDArray[np.bool_] = np.arange(len(self.task_names)) == task
        return only

    def _sizes(self, inside: NDArray[np.bool_]) -> Row:
        """What was scored in a task and outside of it; NaN where the model did not run."""
        names = ("in_task", "off_task")
        if self.effects is None:
            return {f"{name}_{what}": nan for name in names for what in ("documents", "tokens")}
        found: Row = {}
        for name, tasks in zip(names, (inside, ~inside), strict=True):
            found[f"{name}_documents"] = int(self.effects.documents[tasks].sum())
            found[f"{name}_tokens"] = int(self.effects.n_tokens[tasks].sum())
        return found

    def _estimate(self, changes: Draws | None, tasks: NDArray[np.bool_]) -> Estimate:
        """Change of the loss per token of some tasks."""
        if self.effects is None or changes is None:
            return UNKNOWN
        return self.effects.estimate(self.effects.per_token(changes, tasks), tasks)

    def _difference(self, changes: Draws | None, inside: NDArray[np.bool_]) -> Estimate:
        """Change of the loss per token in a task, less that in all others."""
        if self.effects is None or changes is None:
            return UNKNOWN
        one, other = (self.effects.per_token(changes, tasks) for tasks in (inside, ~inside))
        return self.effects.estimate(one - other, np.ones_like(inside))

    def _reason(self, changes: Draws | None, inside: NDArray[np.bool_]) -> str:
        """Why something is NaN, where it is not for want of units."""
        if self.effects is None or changes is None:
            return ""
        if np.isnan(changes).any():
            return "a loss is not finite"
        documents = self.effects.documents
        if not documents[inside].any():
            return "no token of the task is scored"
        if not documents[~inside].any():
            return "no token of another task is scored"
        few = [name for name, n in zip(self.task_names, documents, strict=True) if n == 1]
        if few:
            return f"no interval from one document: {', '.join(few)}"
        return ""


def _cells(name: str, found: Estimate) -> Row:
    """An estimate in its columns."""
    return dict(zip(with_interval(name), found, strict=True))
