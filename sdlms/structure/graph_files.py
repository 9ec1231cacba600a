"""A layer's co-activation graph as GraphML, for Gephi, Cytoscape, igraph or networkx."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from sdlms.storage.files import replacing

Values = Sequence[str | int | float] | NDArray[np.int64] | NDArray[np.float64]


def write_graph(
    path: Path,
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    units: Mapping[str, Values],
    edges: Mapping[str, Values],
) -> None:
    """Write the units that have an edge, and the edges, with all that is known of them.

    A number that is not finite is left out, since readers do not agree on how to spell it. The
    same graph gives the same bytes.

    Args:
        path: of the file.
        ends: `[edge]` int64 each, positions among the units.
        units: `[unit]` of each attribute; `unit`, which of the layer's, is the node's id too.
        edges: `[edge]` of each attribute.

    Raises:
        UserError: it cannot be written, as on a full disk.
        KeyError: there is no attribute `unit`.
    """
    graph = nx.Graph()
    names = [str(unit) for unit in _python(units["unit"])]
    linked = np.unique(np.concatenate(ends)).tolist()
    nodes = _rows(units)
    graph.add_nodes_from((names[position], nodes[position]) for position in linked)
    first, second = (end.tolist() for end in ends)
    for one, other, row in zip(first, second, _rows(edges), strict=True):
        graph.add_edge(names[one], names[other], **row)
    with replacing(path) as file:
        nx.write_graphml_xml(graph, file)


def _rows(columns: Mapping[str, Values]) -> list[dict[str, str | int | float]]:
    """The attributes of each unit or edge, without numbers that are not finite."""
    table = zip(*(_python(column) for column in columns.values()), strict=True)
    return [
        {
            name: value
            for name, value in zip(columns, row, strict=True)
            if not (isinstance(value, float) and not math.isfinite(value))
        }
        for row in table
    ]


def _python(values: Values) -> list[str | int | float]:
    """Values of Python's own types, which networkx can name in the file."""
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
