"""Which units are ablated: the most specialized ones of each task, and random ones as many."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ABLATED_PERCENT = 5  # of a layer's units, for each task, rounded up
RANDOM_SETS = 20  # one more set that is like them lies above all of them once in 21 times
SIGNIFICANT_Q = 0.05

Units = NDArray[np.int64]


class TaskSets(NamedTuple):
    """What is ablated for one task.

    Attributes:
        specialized: units, ascending.
        random: sets of as many other units, ascending; empty where there are none, or too few.
        reason: why one of them is empty; empty where neither is.
    """

    specialized: Units
    random: list[Units]
    reason: str


def choose_sets(
    units: Mapping[str, NDArray[Any]], n_tasks: int, seed: tuple[int, ...]
) -> list[TaskSets]:
    """The most specialized units of each task, and random sets of the same size.

    Specialized are scored units with q < 0.05 that prefer the task, those of the largest
    SI_adjusted first. Random ones are scored, and specialized for no task; where too few are left,
    they may be another task's. Tasks with sets of one size share their random sets, so that the
    model runs over these once.

    Args:
        units: `[unit]` each of one layer: `SI_adjusted`, `q`, `preferred_task` (index, -1 for
            none), `dead` and `rare`.
        n_tasks: how many tasks there are.
        seed: of the random sets.

    Returns:
        One for each task.
    """
    scored = ~(units["dead"] | units["rare"])
    chosen = [_specialized(units, scored, task) for task in range(n_tasks)]
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(scored)) for _ in range(RANDOM_SETS)]
    others = scored.copy()
    others[np.concatenate([*chosen, np.empty(0, np.int64)])] = False
    return [_with_random(own, scored, others, orders) for own in chosen]


def _specialized(units: Mapping[str, NDArray[Any]], scored: NDArray[np.bool_], task: int) -> Units:
    """The most specialized units of a task."""
    fit = scored & (units["preferred_task"] == task) & np.isfinite(units["SI_adjusted"])
    fit[fit] = units["q"][fit] < SIGNIFICANT_Q
    found = np.flatnonzero(fit)
    order = np.argsort(-units["SI_adjusted"][found], kind="stable")
    return np.sort(found[order[: -(-len(scored) * ABLATED_PERCENT // 100)]])


def _with_random(
    specialized: Units,
    scored: NDArray[np.bool_],
    others: NDArray[np.bool_],
    orders: list[NDArray[np.int64]],
) -> TaskSets:
    """Sets as large as the specialized one, from the head of each random order."""
    n = len(specialized)
    if not n:
        why = f"no scored unit with q < {SIGNIFICANT_Q} prefers the task"
        return TaskSets(specialized, [], why)
    if others.sum() < n:
        others = scored.copy()
        others[specialized] = False
    if others.sum() < n:
        why = f"{others.sum()} other scored units, too few for a random set of {n}"
        return TaskSets(specialized, [], why)
    return TaskSets(specialized, [np.sort(order[others[order]][:n]) for order in orders], "")
