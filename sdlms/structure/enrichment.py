"""Which tasks a community's units prefer, and whether more of them than chance would give."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from sdlms.numerics.false_discovery import FALSE_DISCOVERY_RATE, benjamini_hochberg

COLUMNS = [
    *("layer", "community", "units", "scored", "task", "preferring", "fraction", "expected"),
    *("rate_ratio", "p", "q", "enriched"),
]


@dataclass(frozen=True, eq=False)
class Preferences:
    """What is known of all units of a layer.

    Attributes:
        preferred: `[unit]` int64, the task it fires most often in; not read where not scored.
        scored: `[unit]` bool, whether it fires often enough to prefer a task.
        rates: `[task, unit]` float64 > 0, share of each task's tokens on which it fires.
        task_names: of each task.
    """

    preferred: NDArray[np.int64]
    scored: NDArray[np.bool_]
    rates: NDArray[np.float64]
    task_names: tuple[str, ...]


def community_tasks(
    layer: int, communities: NDArray[np.int64], preferences: Preferences
) -> list[dict[str, str | int | float]]:
    """One row for each community of at least two units and each task.

    Args:
        layer: of the model.
        communities: `[unit]` int64 of all units of the layer, -1 for none.
        preferences: of the same units.

    Returns:
        Rows with `COLUMNS`: `units` of the community, those of them that are `scored`, of these
        those `preferring` the task, as a `fraction` too, and as many as `expected` of as many
        units drawn from all scored ones; `rate_ratio`, a unit's firing rate in the task over its
        mean rate over tasks, mean over the scored units; `p` of a draw with at least as many,
        `q` over all rows of the layer, `enriched` 1 where q < 0.05. Without a scored unit,
        fraction and ratio are NaN and p is 1.

    Source: Rivals et al. (2007), "Enrichment or depletion of a GO category within a class of
    genes: which test?" (the one-sided hypergeometric test).
    """
    sizes = np.bincount(communities[communities >= 0])
    rows = [
        {"layer": layer, "community": community, "units": int(sizes[community])} | tested
        for community in np.flatnonzero(sizes >= 2).tolist()
        for tested in _tested(communities == community, preferences)
    ]
    q_values = benjamini_hochberg(np.array([row["p"] for row in rows], dtype=np.float64))
    for row, q in zip(rows, q_values.tolist(), strict=True):
        row |= {"q": q, "enriched": int(q < FALSE_DISCOVERY_RATE)}
    return rows


def _tested(
    members: NDArray[np.bool_], preferences: Preferences
) -> list[dict[str, str | int | float]]:
    """What one community's rows hold, but for q."""
    n_tasks = len(preferences.task_names)
    scored = members & preferences.scored
    n_scored, n_all = int(scored.sum()), int(preferences.scored.sum())
    own = np.bincount(preferences.preferred[scored], minlength=n_tasks)
    of_all = np.bincount(preferences.preferred[preferences.scored], minlength=n_tasks)
    ratios = np.full(n_tasks, np.nan)
    if n_scored:
        rates = preferences.rates[:, scored]
        ratios = (rates / rates.mean(axis=0)).mean(axis=1)
    return [
        {
            "scored": n_scored,
            "task": name,
            "preferring": int(own[task]),
            "fraction": float(own[task] / n_scored) if n_scored else float("nan"),
            "expected": float(n_scored * of_all[task] / max(1, n_all)),
            "rate_ratio": float(ratios[task]),
            "p": float(min(1.0, hypergeom.sf(own[task] - 1, n_all, of_all[task], n_scored))),
        }
        for task, name in enumerate(preferences.task_names)
    ]
