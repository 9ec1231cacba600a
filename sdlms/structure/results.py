"""What a run of si-modularity writes: tables of all layers, and a graph of each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sdlms.structure import enrichment
from sdlms.structure.control_table import Level, control_rows
from sdlms.structure.graph_files import Values, write_graph
from sdlms.structure.graphs import LayerGraphs
from sdlms.structure.study import Layer
from sdlms.structure.tables import (
    COLUMNS,
    COMMUNITY_COLUMNS,
    CONTROL_COLUMNS,
    RESOLUTION_COLUMNS,
    UNIT_COLUMNS,
    Row,
    community_rows,
    layer_rows,
    unit_rows,
)


class Table(NamedTuple):
    """A CSV file.

    Attributes:
        name: of the file.
        columns: of each row.
        rows: made as they are written.
    """

    name: str
    columns: list[str]
    rows: Iterable[Row]


@dataclass(frozen=True, eq=False)
class Results:
    """What was measured.

    Attributes:
        layers: ascending.
        graphs: of each layer; empty where none were made.
        threshold: the rule's name.
        control: what was done to weights or tokens of the subject, `none` otherwise.
    """

    layers: list[Layer]
    graphs: dict[int, LayerGraphs]
    threshold: str
    control: str

    def tables(self) -> Iterator[Table]:
        """Every table; those of graphs only where there are any."""
        yield Table("si_modularity.csv", COLUMNS, self._layer_rows())
        yield Table("units.csv", UNIT_COLUMNS, self._unit_rows())
        yield Table("controls.csv", CONTROL_COLUMNS, control_rows(self._levels()))
        if self.graphs:
            yield Table("communities.csv", COMMUNITY_COLUMNS, self._community_rows())
            yield Table("community_tasks.csv", enrichment.COLUMNS, self._enriched())
            yield Table("resolutions.csv", RESOLUTION_COLUMNS, self._resolutions())

    def _layer_rows(self) -> Iterator[Row]:
        for each in self.layers:
            controls = {name: found.rows for name, found in each.controls.items()}
            graphs = self.graphs.get(each.layer)
            rows = graphs.rows if graphs else {}
            keys: Row = {"layer": each.layer, "threshold": self.threshold, "control": self.control}
            yield from layer_rows(keys, each.own.rows, rows, controls, each.identity)

    def _unit_rows(self) -> Iterator[Row]:
        for each in self.layers:
            communities, names = self._communities(each), each.counts.task_names
            yield from unit_rows(each.layer, each.own.units, each.thresholds, communities, names)

    def _levels(self) -> dict[str, dict[int, Level]]:
        by_layer = {each.layer: each.levels() for each in self.layers}
        controls = next(iter(by_layer.values()))
        return {name: {n: levels[name] for n, levels in by_layer.items()} for name in controls}

    def _community_rows(self) -> Iterator[Row]:
        for each in self.layers:
            preferred, names = each.own.units["preferred_task"], each.counts.task_names
            yield from community_rows(each.layer, self._communities(each), preferred, names)

    def _communities(self, layer: Layer) -> dict[int, int]:
        """`unit -> community` of the units that have an edge."""
        graphs = self.graphs.get(layer.layer)
        if graphs is None:
            return {}
        pairs = zip(graphs.units.tolist(), graphs.communities.tolist(), strict=True)
        return {unit: community for unit, community in pairs if community >= 0}

    def _enriched(self) -> Iterator[Row]:
        for each in self.layers:
            counts, units = each.counts, each.own.units
            labels = np.full(counts.n_units, -1, dtype=np.int64)
            graphs = self.graphs[each.layer]
            labels[graphs.units] = graphs.communities
            rates = (counts.task_counts + 0.5) / (counts.task_tokens[:, None] + 1)
            scored = ~(units["dead"] | units["rare"])
            known = enrichment.Preferences(
                units["preferred_task"], scored, rates, counts.task_names
            )
            for row in enrichment.community_tasks(each.layer, labels, known):
                yield dict(row)

    def _resolutions(self) -> Iterator[Row]:
        for layer, graphs in self.graphs.items():
            for row in graphs.resolutions:
                yield {"layer": layer, **row}

    def write_graphs(self, folder: Path) -> Iterator[str]:
        """Write each layer's within-task graph as GraphML; gives the names of the files."""
        for each in self.layers:
            if each.layer in self.graphs:
                name = f"graph_layer{each.layer}.graphml"
                _write_graph(folder / name, each, self.graphs[each.layer])
                yield name


def _write_graph(path: Path, layer: Layer, graphs: LayerGraphs) -> None:
    """One of them."""
    edges, units = graphs.edges, layer.own.units
    preferred = units["preferred_task"][graphs.units].tolist()
    columns: dict[str, Values] = {
        "unit": graphs.units,
        "community": graphs.communities,
        "preferred_task": [layer.counts.task_names[task] for task in preferred],
        "SI_adjusted": units["SI_adjusted"][graphs.units],
    }
    found: dict[str, Values] = {
        "weight": edges.weight,
        "joint": edges.joint,
        "evidence": edges.evidence,
    }
    write_graph(path, (edges.first, edges.second), columns, found)
