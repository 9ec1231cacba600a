"""Co-activation graphs of a layer, their communities, and their modularity against two nulls."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.association import Edges, Selected, select_edges
from sdlms.progress import LOGGER, readable_seconds
from sdlms.runs.parts import Part, Parts
from sdlms.storage.firings import Firings
from sdlms.structure.communities import (
    N_SEEDS,
    Graph,
    Labels,
    Library,
    agreement,
    find_communities,
    labels_at,
    modularity_of,
    n_communities,
)
from sdlms.structure.firing import ALL
from sdlms.structure.graph_rows import Found, Nulls, Row, graph_row, with_pooled
from sdlms.structure.joint_counts import joint_counts
from sdlms.structure.nulls import NullModel, graph_of, rewired_draw, shifted_draw
from sdlms.structure.packed import packed, unpacked
from sdlms.structure.plain import plain_modularity

# Of all significant edges as many are kept, the strongest: what Louvain does in a second, and half
# of what chance gives, since by chance every other pair fires together more often than expected.
MOST_EDGES = 100_000
MOST_OF_PAIRS = 0.25
FASTER = "several times faster with igraph: pip install 'sdlms[fast]'"
ALWAYS_KEPT = 200  # however few pairs there are
GRAPH_COLUMNS = ("first", "second", "weight")  # which null graphs are made of
RESOLUTIONS = (0.5, 1.0, 2.0)
# What a null draw takes of the observed graphs' time: of that of counting and selecting, with the
# rotation; and of that of a Louvain run, for one of the shifted graphs, one of the observed ones
# and one of the rewired ones (without communities they take longer), and for the rewiring.
SHIFTING, SEARCHING = 2.0, 8.0
WITHIN, POOLED = -2, -1  # positions of the graphs of all tasks in what `joint_counts` gives

Floats = NDArray[np.float64]


class GraphSettings(NamedTuple):
    """How graphs are made.

    Attributes:
        nulls: draws of each null, >= 0.
        top_edges: how many of the strongest edges to take, significant or not; 0 takes all
            significant ones, up to `most_edges`.
        seed: of Louvain and of the nulls, >= 0.
        library: of Louvain.
        device: that counts, as torch names it.
        foretold: draws, of this layer and of those that follow, whose time is told before the
            first of them; 0 tells nothing.
    """

    nulls: int
    top_edges: int
    seed: int
    library: Library
    device: str = "cpu"
    foretold: int = 0


def most_edges(n_units: int) -> int:
    """Of significant ones, that a graph of so many units may have."""
    n_pairs = n_units * (n_units - 1) // 2
    return min(MOST_EDGES, max(ALWAYS_KEPT, int(MOST_OF_PAIRS * n_pairs)))


@dataclass(frozen=True, eq=False)
class LayerGraphs:
    """What was found in a layer.

    Attributes:
        rows: columns about modularity, for `all` and for each task.
        units: `[unit]` int64, those of the layer that are in the graphs' matrix.
        communities: `[unit]` int64 of the graph of all tasks; 0 is the largest, -1 has no edge.
        edges: of the same graph; ends are positions in `units`.
        resolutions: rows of the sweep: task, resolution, Q, n_communities, agreement.
    """

    rows: dict[str, Row]
    units: NDArray[np.int64]
    communities: NDArray[np.int64]
    edges: Edges
    resolutions: list[Row]


def layer_graphs(
    firings: Firings,
    settings: GraphSettings,
    parts: Parts,
    name: str,
    advance: Callable[[int], None],
) -> LayerGraphs:
    """Make a layer's graphs, find their communities and compare both with chance.

    Edges are pairs that fire together more often than their rates within each document explain:
    each document of a task, or of all tasks (the pooled columns: than their rates over all).

    Args:
        firings: of the layer.
        settings: how.
        parts: keeps the observed graphs and each draw of the nulls.
        name: of the layer, for the names of its parts and the log.
        advance: called with 1 after each draw, `2 * settings.nulls` times in all.

    Returns:
        Rows, communities, edges and resolutions; the same after a kill and a resume.
    """
    observed = parts.once(f"{name}_observed", lambda: _observed(firings, settings))
    graphs = [_graph_of(part, firings.n_units) for part in observed["graphs"][:POOLED]]
    n_pooled = observed["graphs"][POOLED]["found"]["n_edges"]
    model = NullModel(firings, graphs, n_pooled, settings.device, settings.seed, settings.library)
    if settings.foretold:
        seconds = readable_seconds(settings.foretold * observed["seconds_per_draw"])
        slow = f" ({FASTER})" if settings.library == "networkx" else ""
        LOGGER.info("%d draws of both graph nulls, about %s%s", settings.foretold, seconds, slow)
    nulls: list[tuple[Part, Part]] = []
    for draw in range(settings.nulls):
        pair = []
        for kind, work_out in (("shifted", shifted_draw), ("rewired", rewired_draw)):
            pair.append(parts.once(f"{name}_{kind}_{draw}", partial(work_out, model, draw)))
            advance(1)
        nulls.append((pair[0], pair[1]))
    return _layer_graphs(firings, observed["graphs"], nulls)


def draws_left(parts: Parts, name: str, nulls: int) -> int:
    """Of a layer's draws of both nulls, those that are still to be worked out."""
    return sum(not parts.has(f"{name}_rewired_{draw}") for draw in range(nulls))


def _observed(firings: Firings, settings: GraphSettings) -> Part:
    """Every graph as it is, in the order of `joint_counts`, and how long a null draw may take."""
    most = settings.top_edges or most_edges(firings.n_units)
    selected, plain = [], []
    began, aside = time.monotonic(), 0.0
    for counts, strata in joint_counts(firings, settings.device):
        found = select_edges(counts, strata, most, significant_only=not settings.top_edges)
        selected.append(found)
        counted = time.monotonic()
        plain.append(plain_modularity(counts.cpu(), int(strata.n_tokens.sum()), settings.library))
        aside += time.monotonic() - counted
    counted = time.monotonic()
    graphs = [_graph(each, firings.n_units, settings) for each in selected]
    searched = time.monotonic()
    for each, part in zip(selected[:POOLED], graphs, strict=False):
        part["resolutions"] = _sweep(each.edges, _labels_of(part), firings, settings)
        part["edges"] = {name: packed(getattr(each.edges, name)) for name in GRAPH_COLUMNS}
    of_all = selected[WITHIN].edges
    for number, part in enumerate(graphs):
        if number != len(graphs) + WITHIN:
            del part["labels"]
    graphs[WITHIN]["edges"] = {name: packed(getattr(of_all, name)) for name in of_all._fields}
    return {
        "graphs": [graph | {"plain": q} for graph, q in zip(graphs, plain, strict=True)],
        "seconds_per_draw": SHIFTING * (counted - began - aside)
        + SEARCHING * (searched - counted) / N_SEEDS,
    }


def _graph(selected: Selected, n_units: int, settings: GraphSettings) -> Part:
    """A graph's communities, and what is told of it."""
    n_edges = len(selected.edges.first)
    found = find_communities(graph_of(selected.edges, n_units), settings.seed, settings.library)
    return {
        "labels": found.labels.tolist(),
        "found": Found(
            Q=found.modularity,
            Q_best=found.best_modularity,
            seed_agreement=found.agreement,
            n_communities=n_communities(found.labels),
            whole=bool(found.labels.max(initial=-1) == 0),
            n_edges=n_edges,
            n_significant=selected.n_significant,
            n_pairs=n_units * (n_units - 1) // 2,
            capped=not settings.top_edges and n_edges < selected.n_significant,
        )._asdict(),
    }


def _sweep(edges: Edges, labels: Labels, firings: Firings, settings: GraphSettings) -> list[Row]:
    """What is found at other resolutions, beside the communities at 1."""
    graph = graph_of(edges, firings.n_units)
    rows: list[Row] = []
    for resolution in RESOLUTIONS:
        own = labels
        if resolution != 1:
            own = labels_at(graph, resolution, settings.seed, settings.library)
        rows.append(
            {
                "resolution": resolution,
                "Q": modularity_of(graph, own) if own.max(initial=-1) > 0 else float("nan"),
                "n_communities": n_communities(own),
                "agreement": agreement(own, labels),
            }
        )
    return rows


def _graph_of(part: Part, n_units: int) -> Graph:
    """The graph that a part keeps."""
    first, second, weight = (unpacked(part["edges"][name]) for name in GRAPH_COLUMNS)
    return Graph(first, second, weight, n_units)


def _labels_of(part: Part) -> Labels:
    """The communities that a part keeps."""
    return np.array(part["labels"], dtype=np.int64)


def _layer_graphs(
    firings: Firings, graphs: list[Part], draws: list[tuple[Part, Part]]
) -> LayerGraphs:
    """The tables' rows, task by task and of all tasks."""
    found = [Found(**part["found"]) for part in graphs]
    rows = [
        graph_row(found[number], _nulls(draws, number), graphs[number]["plain"])
        for number in range(len(graphs) - 1)
    ]
    kept = graphs[WITHIN]["edges"]
    parts = [(ALL, graphs[WITHIN]), *zip(firings.task_names, graphs, strict=False)]
    of_all = with_pooled(rows[-1], found[POOLED], *_pooled_nulls(draws))
    return LayerGraphs(
        rows={ALL: of_all} | dict(zip(firings.task_names, rows, strict=False)),
        units=firings.units,
        communities=_labels_of(graphs[WITHIN]),
        edges=Edges(*(unpacked(kept[name]) for name in Edges._fields)),
        resolutions=[{"task": name} | row for name, part in parts for row in part["resolutions"]],
    )


def _nulls(draws: list[tuple[Part, Part]], number: int) -> Nulls:
    """What the draws hold of one graph."""
    return Nulls(
        shifted=_column(draws, 0, "Q", number),
        matched=_column(draws, 0, "Q_matched", number),
        n_matched=_column(draws, 0, "n_matched", number),
        n_significant=_column(draws, 0, "n_significant", number),
        rewired=_column(draws, 1, "Q", number),
    )


def _pooled_nulls(draws: list[tuple[Part, Part]]) -> tuple[Floats, Floats]:
    """Modularity and significant edges of the pooled null graphs."""
    return _column(draws, 0, "Q", POOLED), _column(draws, 0, "n_significant", POOLED)


def _column(draws: list[tuple[Part, Part]], which: int, key: str, number: int) -> Floats:
    """`[draw]` a number of one graph."""
    return np.array([draw[which][key][number] for draw in draws], dtype=np.float64)
