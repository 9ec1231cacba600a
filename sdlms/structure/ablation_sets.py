"""Which units are ablated: the most specialized ones of each task, and random ones like them.

Random ones are as many, and fire about as often: holding a unit that fires more at its mean changes
more, whatever it is for.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.false_discovery import FALSE_DISCOVERY_RATE

ABLATED_PERCENT = 5  # of a layer's units, for each task, rounded up
RANDOM_SETS = 20  # one more set that is like them lies above all of them once in 21 times

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


class Pool(NamedTuple):
    """Whom random sets are drawn from.

    Attributes:
        scored: `[unit]` bool.
        others: `[unit]` bool, the scored units that are specialized for no task.
        octaves: `[unit]` int64, `octaves_of`.
        orders: of all units, one random one for each set.
    """

    scored: NDArray[np.bool_]
    others: NDArray[np.bool_]
    octaves: NDArray[np.int64]
    orders: list[Units]


def choose_sets(
    units: Mapping[str, NDArray[Any]], n_tasks: int, seed: tuple[int, ...]
) -> list[TaskSets]:
    """The most specialized units of each task, and random sets of the same size.

    Specialized are scored units with q < 0.05 that prefer the task, those of the largest
    SI_adjusted first. Random ones are scored, and specialized for no task; where too few are left,
    they may be another task's. Of each octave of firing rates a random set has as many units as
    the specialized one; where the octave has too few, the rest is from the nearest ones. Tasks
    whose sets are of one size and of the same octaves share their random sets, so that the model
    runs over these once.

    Args:
        units: `[unit]` each of one layer: `SI_adjusted`, `q`, `preferred_task` (index, -1 for
            none), `fired` (tokens), `dead` and `rare`.
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
    pool = Pool(scored, others, octaves_of(units["fired"], scored), orders)
    return [_with_random(own, pool) for own in chosen]


def octaves_of(fired: NDArray[np.int64], scored: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`[unit]` doublings from the median of the scored units, rounded; of others 0.

    Units of one octave differ in how often they fire by a factor of 2 at most. Those that all fire
    alike, as by their own quantile, are one octave: the median is in the middle of its own.

    Args:
        fired: `[unit]` tokens on which each fires, > 0 where it is scored.
        scored: `[unit]`.
    """
    found: NDArray[np.int64] = np.zeros(len(fired), dtype=np.int64)
    if scored.any():
        rates = np.log2(fired[scored])
        found[scored] = np.rint(rates - np.median(rates)).astype(np.int64)
    return found


def _specialized(units: Mapping[str, NDArray[Any]], scored: NDArray[np.bool_], task: int) -> Units:
    """The most specialized units of a task."""
    fit = scored & (units["preferred_task"] == task) & np.isfinite(units["SI_adjusted"])
    fit[fit] = units["q"][fit] < FALSE_DISCOVERY_RATE
    found = np.flatnonzero(fit)
    order = np.argsort(-units["SI_adjusted"][found], kind="stable")
    return np.sort(found[order[: -(-len(scored) * ABLATED_PERCENT // 100)]])


def _with_random(specialized: Units, pool: Pool) -> TaskSets:
    """Sets as large as the specialized one, that fire about as often."""
    n, others = len(specialized), pool.others
    if not n:
        why = f"no scored unit with q < {FALSE_DISCOVERY_RATE} prefers the task"
        return TaskSets(specialized, [], why)
    if others.sum() < n:
        others = pool.scored.copy()
        others[specialized] = False
    if others.sum() < n:
        why = f"{others.sum()} other scored units, too few for a random set of {n}"
        return TaskSets(specialized, [], why)
    wanted = pool.octaves[specialized]
    random = [_like(wanted, order[others[order]], pool.octaves) for order in pool.orders]
    return TaskSets(specialized, random, "")


def _like(wanted: NDArray[np.int64], left: Units, octaves: NDArray[np.int64]) -> Units:
    """Units of the octaves that are wanted, the first of each in an order; then the nearest ones.

    Args:
        wanted: octaves, one for each unit to be found.
        left: units to choose from, as many at least, in random order.
        octaves: `[unit]`.
    """
    found: list[int] = []
    missing: list[int] = []
    for octave, n in zip(*np.unique(wanted, return_counts=True), strict=True):
        own = left[octaves[left] == octave][:n].tolist()
        found += own
        missing += [octave] * (n - len(own))
    for octave in missing:
        rest = left[~np.isin(left, found)]
        found.append(int(rest[np.abs(octaves[rest] - octave).argmin()]))
    return np.array(sorted(found), dtype=np.int64)
