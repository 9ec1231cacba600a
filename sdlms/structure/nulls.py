"""What the modularity of a layer's graphs would be if nothing but chance had made them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.association import Edges, select_edges
from sdlms.numerics.rewiring import rewired
from sdlms.storage.firings import Firings
from sdlms.structure.communities import Graph, Library, louvain, modularity_of
from sdlms.structure.joint_counts import joint_counts
from sdlms.structure.parts import Part

SHIFTED, REWIRED = 1, 2  # so that both nulls draw from streams of their own
SAME = 1e-9  # modularities that differ by less differ by rounding


class Chance(NamedTuple):
    """A value and what a null gives in its place.

    Attributes:
        mean: of the null.
        sd: of the null's draws.
        z: (value - mean) / sd.
        reason: why one of these is NaN; empty where none is.
    """

    mean: float
    sd: float
    z: float
    reason: str


def graph_of(edges: Edges, n_units: int) -> Graph:
    """What communities are found in."""
    return Graph(edges.first, edges.second, edges.weight, n_units)


def shifted_draw(
    firings: Firings, n_edges: list[int], seed: int, library: Library, draw: int
) -> Part:
    """The graphs of documents in which every unit's firings are rotated on their own.

    Each unit fires as often in each document as before, in bursts as before; which units fire at
    the same time is chance. As many edges are taken as the observed graph has, by falling
    evidence, significant or not.

    Args:
        firings: of the layer.
        n_edges: of each observed graph, in the order of `joint_counts`.
        seed: of the run.
        library: of Louvain, which is run from one seed.
        draw: from 0.

    Returns:
        `Q` and `n_significant` of each graph; Q is NaN without as many edges, or any.
    """
    generator = np.random.default_rng([seed, draw, SHIFTED])
    modularities, n_significant = [], []
    for most, (counts, strata) in zip(n_edges, joint_counts(firings, generator), strict=True):
        found = select_edges(counts, strata, max(1, most), significant_only=False)
        n_significant.append(found.n_significant)
        graph = graph_of(found.edges, firings.n_units)
        matched = 0 < most == len(graph.first)
        modularities.append(_modularity(graph, seed + draw, library) if matched else float("nan"))
    return {"Q": modularities, "n_significant": n_significant}


def rewired_draw(graphs: list[Graph], seed: int, library: Library, draw: int) -> Part:
    """Random graphs with the degrees of the observed ones; weights travel with their edges.

    Returns:
        `Q` of each graph; NaN without an edge.
    """
    generator = np.random.default_rng([seed, draw, REWIRED])
    modularities = []
    for graph in graphs:
        first, second = rewired(graph.first, graph.second, generator)
        new = graph._replace(first=first, second=second)
        modularities.append(_modularity(new, seed + draw, library))
    return {"Q": modularities}


def against(value: float, null: NDArray[np.float64]) -> Chance:
    """A modularity and that of `[draw]` null graphs, NaN of those with too few edges."""
    drawn = null[~np.isnan(null)]
    mean = float(drawn.mean()) if len(drawn) else float("nan")
    sd = float(drawn.std(ddof=1)) if len(drawn) > 1 else float("nan")
    if not len(null):
        reason = "no null was drawn"
    elif not len(drawn):
        reason = "no null graph has as many edges"
    elif len(drawn) == 1:
        reason = "one null graph has no sd"
    elif sd < SAME:
        reason = "all null graphs have the same modularity"
    else:
        return Chance(mean, sd, (value - mean) / sd, "")
    return Chance(mean, sd, float("nan"), reason)


def _modularity(graph: Graph, seed: int, library: Library) -> float:
    """Of the communities that one seed finds."""
    return modularity_of(graph, louvain(graph, 1.0, seed, library))
