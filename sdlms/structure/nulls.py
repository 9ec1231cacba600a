"""What the modularity of a layer's graphs would be if nothing but chance had made them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.association import Edges, select_edges
from sdlms.numerics.rewiring import rewired
from sdlms.runs.parts import Part
from sdlms.storage.firings import Firings
from sdlms.structure.communities import Graph, Library, louvain, modularity_of
from sdlms.structure.joint_counts import joint_counts

SHIFTED, REWIRED = 1, 2  # so that both nulls draw from streams of their own
SAME = 1e-9  # modularities that differ by less differ by rounding
NO_NULL = "no null was drawn"


class Chance(NamedTuple):
    """A value and what a null gives in its place.

    Attributes:
        mean: of the null; NaN where a draw has no edge.
        sd: of the null's draws.
        z: (value - mean) / sd.
        reason: why z is NaN; empty where it is not.
    """

    mean: float
    sd: float
    z: float
    reason: str


class NullModel(NamedTuple):
    """What null graphs are drawn for.

    Attributes:
        firings: of the layer.
        graphs: the observed ones but for the pooled one, in the order of `joint_counts`, their
            strongest edges first.
        n_pooled: edges of the pooled graph.
        device: that counts, as torch names it.
        seed: of the run.
        library: of Louvain, which is run from one seed in each draw.
    """

    firings: Firings
    graphs: list[Graph]
    n_pooled: int
    device: str
    seed: int
    library: Library


def graph_of(edges: Edges, n_units: int) -> Graph:
    """What communities are found in."""
    return Graph(edges.first, edges.second, edges.weight, n_units)


def strongest(graph: Graph, most: int) -> Graph:
    """The graph of its first edges, of which there may be fewer."""
    first, second, weight = graph.first[:most], graph.second[:most], graph.weight[:most]
    return Graph(first, second, weight, graph.n_units)


def shifted_draw(model: NullModel, draw: int) -> Part:
    """The graphs of documents in which every unit's firings are rotated on their own.

    Each unit fires as often in each document as before, in bursts as before; which units fire at
    the same time is chance. As many edges are taken as the observed graph has, by falling
    evidence, significant or not. Where there are fewer, the observed graph is cut to as many, and
    its communities are found anew, from the same seed.

    Args:
        model: what is drawn for.
        draw: from 0.

    Returns:
        Of each graph, the pooled one too, `Q` and `n_significant`; of each but the pooled one
        `Q_matched` of the observed graph and `n_matched` edges of both. Q is NaN without an edge.
    """
    generator = np.random.default_rng([model.seed, draw, SHIFTED])
    found: Part = {"Q": [], "n_significant": [], "Q_matched": [], "n_matched": []}
    n_edges = [*(len(graph.first) for graph in model.graphs), model.n_pooled]
    drawn = joint_counts(model.firings, model.device, generator)
    for number, (most, (counts, strata)) in enumerate(zip(n_edges, drawn, strict=True)):
        selected = select_edges(counts, strata, max(1, most), significant_only=False)
        null = strongest(graph_of(selected.edges, model.firings.n_units), most)
        found["Q"].append(_modularity(null, model, draw))
        found["n_significant"].append(selected.n_significant)
        if number < len(model.graphs):
            n_matched = len(null.first)
            matched = strongest(model.graphs[number], n_matched)
            found["Q_matched"].append(_modularity(matched, model, draw))
            found["n_matched"].append(n_matched)
    return found


def rewired_draw(model: NullModel, draw: int) -> Part:
    """Random graphs with the degrees of the observed ones; weights travel with their edges.

    Returns:
        `Q` of each graph but the pooled one; NaN without an edge.
    """
    generator = np.random.default_rng([model.seed, draw, REWIRED])
    modularities = []
    for graph in model.graphs:
        first, second = rewired(graph.first, graph.second, generator)
        modularities.append(_modularity(graph._replace(first=first, second=second), model, draw))
    return {"Q": modularities}


def against(value: float, null: NDArray[np.float64]) -> Chance:
    """A modularity, and that of `[draw]` null graphs, NaN of those without an edge."""
    mean = float(null.mean()) if len(null) else float("nan")
    sd = float(null.std(ddof=1)) if len(null) > 1 else float("nan")
    if not len(null):
        reason = NO_NULL
    elif np.isnan(mean):
        reason = "a null graph has no edge"
    elif len(null) == 1:
        reason = "one null graph has no sd"
    elif sd < SAME:
        reason = "all null graphs have the same modularity"
    else:
        return Chance(mean, sd, (value - mean) / sd, "")
    return Chance(mean, sd, float("nan"), reason)


def _modularity(graph: Graph, model: NullModel, draw: int) -> float:
    """Of the communities that one seed finds."""
    return modularity_of(graph, louvain(graph, 1.0, model.seed + draw, model.library))
