"""What si_modularity.csv says of a graph: its modularity, that of the nulls, and what is amiss."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.structure.nulls import against

Row = dict[str, float | int | str]
NAN = float("nan")


class Found(NamedTuple):
    """One observed graph.

    Attributes:
        Q: median over seeds.
        Q_best: of the best seed.
        seed_agreement: mean adjusted Rand index of two seeds.
        n_communities: of at least two units.
        whole: whether all units with an edge are one community.
        n_edges: of the graph.
        n_significant: pairs with significant evidence, in the graph or not.
    """

    Q: float
    Q_best: float
    seed_agreement: float
    n_communities: int
    whole: bool
    n_edges: int
    n_significant: int


class Nulls(NamedTuple):
    """The null graphs of one observed graph.

    Attributes:
        shifted: `[draw]` float64 modularity with shifted firings; NaN without an edge.
        n_significant: `[draw]` float64 pairs that are significant there.
        rewired: `[draw]` float64 modularity with rewired edges; NaN without an edge.
    """

    shifted: NDArray[np.float64]
    n_significant: NDArray[np.float64]
    rewired: NDArray[np.float64]


def graph_row(found: Found, nulls: Nulls, plain: float) -> Row:
    """Columns of a row: counts are 0 without an edge, all else that is undefined is NaN.

    Args:
        found: the graph.
        nulls: its null graphs.
        plain: Q_plain of the same tokens.

    Returns:
        The columns, `Q_reason` among them: why some are NaN, empty where none is.
    """
    missing = _missing(found)
    modularity = NAN if missing else found.Q
    shifted, rewired = against(modularity, nulls.shifted), against(modularity, nulls.rewired)
    reasons = [missing] if missing else [shifted.reason]
    if not missing and rewired.reason != shifted.reason:
        reasons.append(f"rewired: {rewired.reason}" if rewired.reason else "")
    if np.isnan(plain):
        reasons.append("plain: no edge or one community")
    return {
        "Q": modularity,
        "Q_best": NAN if missing else found.Q_best,
        "Q_plain": plain,
        "Q_null_mean": shifted.mean,
        "Q_null_sd": shifted.sd,
        "z_Q": shifted.z,
        "Q_rewired_mean": rewired.mean,
        "Q_rewired_sd": rewired.sd,
        "z_Q_rewired": rewired.z,
        "n_edges": found.n_edges,
        "n_significant_edges": found.n_significant,
        "n_significant_null_mean": _mean(nulls.n_significant),
        "n_communities": found.n_communities,
        "seed_agreement": found.seed_agreement,
        "Q_reason": "; ".join(reason for reason in reasons if reason),
    }


def with_pooled(row: Row, found: Found, nulls: Nulls) -> Row:
    """The row of all tasks with the columns of the graph that knows of no tasks."""
    missing = _missing(found)
    modularity = NAN if missing else found.Q
    shifted = against(modularity, nulls.shifted)
    reason = missing or shifted.reason
    told = [str(row["Q_reason"]), f"pooled: {reason}" if reason else ""]
    if reason == row["Q_reason"]:
        told = [reason]
    return row | {
        "Q_pooled": modularity,
        "Q_pooled_null_mean": shifted.mean,
        "Q_pooled_null_sd": shifted.sd,
        "z_Q_pooled": shifted.z,
        "n_edges_pooled": found.n_edges,
        "n_significant_edges_pooled": found.n_significant,
        "n_communities_pooled": found.n_communities,
        "Q_reason": "; ".join(part for part in told if part),
    }


def _missing(found: Found) -> str:
    """Why the graph has no modularity, if it has none."""
    if not found.n_edges:
        return "no edge"
    return "one community" if found.whole else ""  # Q is 0 then, whatever the graph


def _mean(values: NDArray[np.float64]) -> float:
    """NaN where there is none."""
    return float(values.mean()) if len(values) else NAN
