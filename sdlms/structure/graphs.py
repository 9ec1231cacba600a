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
from sdlms.storage.firings import Firings
from sdlms.structure.communities import (
    N_SEEDS,
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
from sdlms.structure.nulls import graph_of, rewired_draw, shifted_draw
from sdlms.structure.parts import Part, Parts
from sdlms.structure.plain import plain_modularity

# Of all significant edges as many are kept, the strongest: what Louvain does in a second, and half
# of what chance gives, since by chance every other pair fires together more often than expected.
MOST_EDGES = 100_000
MOST_OF_PAIRS = 0.25
ALWAYS_KEPT = 200  # however few pairs there are
RESOLUTIONS = (0.5, 1.0, 2.0)
# What a null draw takes of the observed graphs' time: shifting, counting and selecting; and a
# Louvain run of the shifted graphs, one of the rewired ones, and the rewiring.
SHIFTING, SEARCHING = 1.5, 4.0
WITHIN, POOLED = -2, -1  # positions of the graphs of all tasks in what `joint_counts` gives


class GraphSettings(NamedTuple):
    """How graphs are made.

    Attributes:
        nulls: draws of each null, >= 0.
        top_edges: how many of the strongest edges to take, significant or not; 0 takes all
            significant ones, up to `most_edges`.
        seed: of Louvain and of the nulls, >= 0.
        library: of Louvain.
    """

    nulls: int
    top_edges: int
    seed: int
    library: Library


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
        communities: `[unit]` int64 of the graph of all tasks, edges within tasks; 0 is the
            largest, -1 has no edge.
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

    Edges of the row `all` are pairs that fire together more often than their rates within each
    task explain (its pooled columns: than their rates over all tasks); edges of a task's row are
    of its tokens alone.

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
    edges = [_edges_of(part) for part in observed["graphs"]]
    shift = partial(shifted_draw, firings, [len(each.first) for each in edges])
    rewire = partial(rewired_draw, [graph_of(each, firings.n_units) for each in edges])
    left = [n for n in range(settings.nulls) if not parts.has(f"{name}_rewired_{n}")]
    if left:
        seconds = readable_seconds(len(left) * observed["seconds_per_draw"])
        LOGGER.info("%s: %d draws of both nulls, about %s", name, len(left), seconds)
    nulls: list[tuple[Part, Part]] = []
    for draw in range(settings.nulls):
        pair = []
        for kind, work_out in (("shifted", shift), ("rewired", rewire)):
            work = partial(work_out, settings.seed, settings.library, draw)
            pair.append(parts.once(f"{name}_{kind}_{draw}", work))
            advance(1)
        nulls.append((pair[0], pair[1]))
    return _layer_graphs(firings, observed["graphs"], edges, nulls)


def _observed(firings: Firings, settings: GraphSettings) -> Part:
    """Every graph as it is, in the order of `joint_counts`, and how long a null draw may take."""
    most = settings.top_edges or most_edges(firings.n_units)
    selected, plain = [], []
    began = time.monotonic()
    for counts, strata in joint_counts(firings):
        found = select_edges(counts, strata, most, significant_only=not settings.top_edges)
        selected.append(found)
        plain.append(plain_modularity(counts, int(strata.n_tokens.sum()), settings.library))
    counted = time.monotonic()
    graphs = [_graph(each, firings.n_units, settings) for each in selected]
    searched = time.monotonic()
    for each, part in zip(selected[:POOLED], graphs, strict=False):
        part["resolutions"] = _sweep(each.edges, _labels_of(part), firings, settings)
    return {
        "graphs": [graph | {"plain": q} for graph, q in zip(graphs, plain, strict=True)],
        "seconds_per_draw": SHIFTING * (counted - began)
        + SEARCHING * (searched - counted) / N_SEEDS,
    }


def _graph(selected: Selected, n_units: int, settings: GraphSettings) -> Part:
    """A graph's edges and communities."""
    edges = selected.edges
    found = find_communities(graph_of(edges, n_units), settings.seed, settings.library)
    return {
        "edges": {name: column.tolist() for name, column in edges._asdict().items()},
        "labels": found.labels.tolist(),
        "found": Found(
            Q=found.modularity,
            Q_best=found.best_modularity,
            seed_agreement=found.agreement,
            n_communities=n_communities(found.labels),
            whole=bool(found.labels.max(initial=-1) == 0),
            n_edges=len(edges.first),
            n_significant=selected.n_significant,
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


def _edges_of(part: Part) -> Edges:
    """The edges that a part keeps."""
    first, second, joint = (
        np.array(part["edges"][name], dtype=np.int64) for name in ("first", "second", "joint")
    )
    evidence, weight = (
        np.array(part["edges"][name], dtype=np.float64) for name in ("evidence", "weight")
    )
    return Edges(first, second, joint, evidence, weight)


def _labels_of(part: Part) -> Labels:
    """The communities that a part keeps."""
    return np.array(part["labels"], dtype=np.int64)


def _layer_graphs(
    firings: Firings, graphs: list[Part], edges: list[Edges], nulls: list[tuple[Part, Part]]
) -> LayerGraphs:
    """The tables' rows, task by task and of all tasks."""
    shifted, significant, rewired = (
        np.array([draw[which][key] for draw in nulls], dtype=np.float64).reshape(-1, len(graphs))
        for which, key in ((0, "Q"), (0, "n_significant"), (1, "Q"))
    )
    found = [Found(**part["found"]) for part in graphs]
    chance = [Nulls(shifted[:, n], significant[:, n], rewired[:, n]) for n in range(len(graphs))]
    rows = [graph_row(found[n], chance[n], graphs[n]["plain"]) for n in range(len(graphs))]
    of_all = with_pooled(rows[WITHIN], found[POOLED], chance[POOLED])
    return LayerGraphs(
        rows={ALL: of_all} | dict(zip(firings.task_names, rows, strict=False)),
        units=firings.units,
        communities=_labels_of(graphs[WITHIN]),
        edges=edges[WITHIN],
        resolutions=[
            {"task": name} | row
            for name, part in [
                (ALL, graphs[WITHIN]),
                *zip(firings.task_names, graphs, strict=False),
            ]
            for row in part["resolutions"]
        ],
    )
