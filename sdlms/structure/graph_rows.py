"""What si_modularity.csv says of a graph: its modularity, that of the nulls, and what is amiss."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.structure.nulls import NO_NULL, Chance, against

Row = dict[str, float | int | str]
NAN = float("nan")
LEAST_EDGES = 50


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
        n_pairs: of units, whatever their evidence.
        capped: whether significant pairs were left out because there are too many.
    """

    Q: float
    Q_best: float
    seed_agreement: float
    n_communities: int
    whole: bool
    n_edges: int
    n_significant: int
    n_pairs: int
    capped: bool


class Nulls(NamedTuple):
    """The null graphs of one observed graph, `[draw]` float64 each.

    Attributes:
        shifted: modularity with shifted firings; NaN without an edge.
        matched: that of as many of the observed edges, from the same seed.
        n_matched: edges of both.
        n_significant: pairs that are significant with shifted firings.
        rewired: modularity with rewired edges; NaN without an edge.
    """

    shifted: NDArray[np.float64]
    matched: NDArray[np.float64]
    n_matched: NDArray[np.float64]
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
    n_matched = int(nulls.n_matched.min(initial=found.n_edges)) if len(nulls.n_matched) else 0
    shifted = against(_mean(nulls.matched), nulls.shifted)
    rewired = against(found.Q, nulls.rewired)
    why_shifted = missing or _small(n_matched, shifted)
    why_rewired = missing or _small(found.n_edges, rewired)
    reasons = [why_shifted]
    if why_rewired != why_shifted:
        reasons.append(why_rewired and f"rewired: {why_rewired}")
    if np.isnan(plain):
        reasons.append("plain: no edge or one community")
    return {
        "Q": NAN if missing else found.Q,
        "Q_best": NAN if missing else found.Q_best,
        "Q_plain": plain,
        "Q_null_mean": shifted.mean,
        "Q_null_sd": shifted.sd,
        "z_Q": NAN if why_shifted else shifted.z,
        "Q_rewired_mean": rewired.mean,
        "Q_rewired_sd": rewired.sd,
        "z_Q_rewired": NAN if why_rewired else rewired.z,
        "n_edges": found.n_edges,
        "n_edges_matched": n_matched,
        "edge_density": found.n_edges / found.n_pairs if found.n_pairs else NAN,
        "n_significant_edges": found.n_significant,
        "n_significant_null_mean": _mean(nulls.n_significant),
        "n_communities": found.n_communities,
        "seed_agreement": found.seed_agreement,
        "Q_reason": "; ".join(reason for reason in reasons if reason),
        "warning": _capped(found),
    }


def with_pooled(
    row: Row, found: Found, shifted: NDArray[np.float64], n_significant: NDArray[np.float64]
) -> Row:
    """The row of all tasks with the columns of the graph that knows of no documents.

    There is no z: shifted firings keep the mixture of documents that the pooled graph is made of.

    Args:
        row: to be extended.
        found: the pooled graph.
        shifted: `[draw]` modularity with shifted firings.
        n_significant: `[draw]` pairs that are significant there.
    """
    missing = _missing(found)
    null = against(found.Q, shifted)
    told = [str(row["Q_reason"]), missing and f"pooled: {missing}"]
    if missing == row["Q_reason"]:
        told = [missing]
    doubts = [str(row["warning"]), found.capped and f"pooled {_capped(found)}"]
    return row | {
        "Q_pooled": NAN if missing else found.Q,
        "Q_pooled_null_mean": null.mean,
        "Q_pooled_null_sd": null.sd,
        "n_edges_pooled": found.n_edges,
        "n_significant_edges_pooled": found.n_significant,
        "n_significant_pooled_null_mean": _mean(n_significant),
        "n_communities_pooled": found.n_communities,
        "Q_reason": "; ".join(part for part in told if part),
        "warning": "; ".join(part for part in doubts if part),
    }


def _missing(found: Found) -> str:
    """Why the graph has no modularity, if it has none."""
    if not found.n_edges:
        return "no edge"
    return "one community" if found.whole else ""  # Q is 0 then, whatever the graph


def _small(n_edges: int, chance: Chance) -> str:
    """Why a modularity cannot be compared with that of null graphs, if so."""
    if n_edges < LEAST_EDGES and chance.reason != NO_NULL:
        return f"fewer than {LEAST_EDGES} edges: modularity of so small a graph is noise"
    return chance.reason


def _capped(found: Found) -> str:
    """What to say of a graph that leaves out significant edges."""
    if not found.capped:
        return ""
    return f"graph capped: {found.n_edges:,} of {found.n_significant:,} significant edges"


def _mean(values: NDArray[np.float64]) -> float:
    """NaN where there is none."""
    return float(values.mean()) if len(values) else NAN
