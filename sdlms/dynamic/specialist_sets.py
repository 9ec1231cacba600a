"""Which neurons a run calls specialized, and random ones that are kept about as often."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.false_discovery import FALSE_DISCOVERY_RATE

MOST_PERCENT = 5  # of a layer's neurons, for each task, rounded up: as si-modularity ablates
NEAREST = 10  # a random neuron is drawn among so many that are kept most nearly as often

Neurons = NDArray[np.int64]


class LayerUnits(NamedTuple):
    """What `units.csv` says of one layer; all `[neuron]`.

    Attributes:
        preferred: int64, index of the task in which it fires most often; -1 for none.
        specialization: float64, `SI_adjusted`; NaN where it has none.
        q: float64, the false discovery rate; NaN where it has none.
        scored: bool, neither dead nor rare.
        community: int64, -1 where it is in no graph.
    """

    preferred: NDArray[np.int64]
    specialization: NDArray[np.float64]
    q: NDArray[np.float64]
    scored: NDArray[np.bool_]
    community: NDArray[np.int64]


def read_units(rows: Iterable[Mapping[str, str]], tasks: Mapping[str, int]) -> LayerUnits:
    """One layer of `units.csv`.

    Args:
        rows: of that layer, neurons ascending.
        tasks: number of each task.

    Raises:
        ValueError: a cell cannot be read, or a neuron is missing.
        KeyError: a column is missing, or a task is unknown.
    """
    own = list(rows)
    if [int(row["unit"]) for row in own] != list(range(len(own))):
        raise ValueError("a neuron is missing")
    silent = [int(row["dead"]) or int(row["rare"]) for row in own]
    preferred = [tasks[row["preferred_task"]] if row["preferred_task"] else -1 for row in own]
    return LayerUnits(
        preferred=np.array(preferred, dtype=np.int64),
        specialization=np.array([float(row["SI_adjusted"] or "nan") for row in own]),
        q=np.array([float(row["q"] or "nan") for row in own]),
        scored=np.array(silent) == 0,
        community=np.array([int(row["community"] or -1) for row in own], dtype=np.int64),
    )


def specialists_of(units: LayerUnits, n_tasks: int) -> list[Neurons]:
    """The specialized neurons of each task, ascending.

    Those that prefer the task with q < 0.05 and are neither dead nor rare; at most 5 % of the
    layer, those of the largest adjusted index. Nearly every neuron of a trained layer has a q that
    small: without the bound they would say nothing of a task. `sdlms si-modularity --ablate` takes
    the same ones.
    """
    most = -(-len(units.q) * MOST_PERCENT // 100)
    fit = units.scored & np.isfinite(units.specialization)
    fit &= np.nan_to_num(units.q, nan=1.0) < FALSE_DISCOVERY_RATE
    found = []
    for task in range(n_tasks):
        own = np.flatnonzero(fit & (units.preferred == task))
        order = np.argsort(-units.specialization[own], kind="stable")
        found.append(np.sort(own[order[:most]]))
    return found


def random_like(
    specialists: Neurons,
    others: Neurons,
    kept: NDArray[np.int64],
    generator: np.random.Generator,
) -> Neurons | None:
    """As many other neurons, each kept about as often as one of the specialized.

    For each specialized neuron in random order, one of the `NEAREST` that are left and are kept
    most nearly as often.

    Args:
        specialists: neurons.
        others: whom to draw from, none of them specialized.
        kept: `[neuron]` tokens on which each is kept.
        generator: of the draws.

    Returns:
        Neurons, ascending; None where there are too few others.
    """
    if len(others) < len(specialists):
        return None
    left = others[np.lexsort((generator.permutation(len(others)), kept[others]))].tolist()
    counts = kept[left].tolist()
    found = []
    for neuron in generator.permutation(specialists).tolist():
        first = _nearest(counts, int(kept[neuron]), min(NEAREST, len(left)))
        place = first + int(generator.integers(min(NEAREST, len(left))))
        found.append(left.pop(place))
        counts.pop(place)
    return np.array(sorted(found), dtype=np.int64)


def _nearest(counts: list[int], wanted: int, n: int) -> int:
    """Where the `n` ascending counts that are nearest to the one that is wanted begin."""
    low, high = 0, len(counts) - n
    while low < high:
        middle = (low + high) // 2
        if wanted - counts[middle] > counts[middle + n] - wanted:
            low = middle + 1
        else:
            high = middle
    return low
