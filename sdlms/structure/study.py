"""One run of si-modularity, layer by layer: what is measured of a layer's units."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdlms.structure.control_table import NONE, SHUFFLED, Level
from sdlms.structure.counting import document_counts, threshold_curve_counts, write_firings
from sdlms.structure.firing import ALL, DocumentCounts
from sdlms.structure.graphs import GraphSettings, LayerGraphs, layer_graphs
from sdlms.structure.parts import Parts
from sdlms.structure.specialization import Specialization, specialize
from sdlms.structure.subject import Subject
from sdlms.structure.tables import Row, curve_row
from sdlms.structure.thresholds import thresholds_of

CURVE_PERMUTATIONS = 1_000


@dataclass(frozen=True, eq=False)
class Layer:
    """What is known of the units of one layer.

    Attributes:
        layer: of the model.
        thresholds: `[unit]` float32.
        counts: of the model itself.
        own: how specialized they are.
        controls: the same of each control.
    """

    layer: int
    thresholds: NDArray[np.float32]
    counts: DocumentCounts
    own: Specialization
    controls: dict[str, Specialization]

    def levels(self) -> dict[str, Level]:
        """Mean specialization of the model and each control, shuffled labels among them."""
        found = {NONE: self.own, **self.controls}
        levels = {
            name: Level(_number(each, "SI_adjusted"), each.resamples, _scored(each))
            for name, each in found.items()
        }
        chance = float(np.mean(self.own.shuffled))
        return levels | {SHUFFLED: Level(chance, self.own.shuffled, _scored(self.own))}


def _number(found: Specialization, column: str) -> float:
    """A number of the row of all tasks."""
    return float(found.rows[ALL][column])


def _scored(found: Specialization) -> int:
    """Units over which means are taken."""
    return int(found.rows[ALL]["units_scored"])


@dataclass(frozen=True, eq=False)
class Study:
    """A run's units, and its controls'.

    Attributes:
        subject: whose units are measured.
        controls: by name.
        seed: of everything random.
        parts: what a killed run had worked out.
        scratch: where firings are kept while graphs are made.
    """

    subject: Subject
    controls: dict[str, Subject]
    seed: int
    parts: Parts
    scratch: Path

    def measure(self, layer: int, advance: Callable[[int], None]) -> Layer:
        """Specialization of a layer and its controls; told of each when it is done."""
        thresholds = thresholds_of(self.subject, layer)
        counts = document_counts(self.subject, layer, thresholds)
        own = specialize(counts, self.seed)
        advance(1)
        controls = {}
        for name, control in self.controls.items():
            theirs = document_counts(control, layer, thresholds_of(control, layer))
            controls[name] = specialize(theirs, self.seed)
            advance(1)
        return Layer(layer, thresholds, counts, own, controls)

    def curve(self, layer: Layer) -> list[Row]:
        """Rows of `thresholds.csv`; the own threshold's alone where the run kept no activations."""
        name = f"layer_{layer.layer}_curve"
        rows: list[Row] = self.parts.once(name, lambda: {"rows": self._curve(layer)})["rows"]
        return rows

    def _curve(self, layer: Layer) -> list[Row]:
        """The layer at its own threshold, and at others."""
        found = {self.subject.rule.name: layer.own}
        others = threshold_curve_counts(self.subject, layer.layer) if self.subject.source else {}
        for name, counts in others.items():
            if name not in found:
                found[name] = specialize(counts, self.seed, n_permutations=CURVE_PERMUTATIONS)
        return [
            curve_row(layer.layer, name, each.rows[ALL], float(each.units["firing_rate"].mean()))
            for name, each in found.items()
        ]

    def graphs(
        self, layer: Layer, settings: GraphSettings, advance: Callable[[int], None]
    ) -> LayerGraphs:
        """Co-activation graphs of a layer, and their nulls."""
        path = self.scratch / f"layer_{layer.layer}.firings"
        firings = write_firings(self.subject, layer.layer, layer.thresholds, layer.counts, path)
        found = layer_graphs(firings, settings, self.parts, f"layer_{layer.layer}", advance)
        path.unlink()
        return found
