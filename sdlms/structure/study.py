"""One run of si-modularity, layer by layer: what is measured of a layer's units."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdlms.progress import LOGGER
from sdlms.runs.parts import Parts
from sdlms.structure.control_table import MATCHED, NONE, PERMUTED, REINIT, SHUFFLED, Level
from sdlms.structure.counting import (
    counted,
    document_counts,
    threshold_curve_counts,
    write_firings,
)
from sdlms.structure.firing import ALL, DocumentCounts
from sdlms.structure.graphs import GraphSettings, LayerGraphs, draws_left, layer_graphs
from sdlms.structure.specialization import Row as SpecializationRow
from sdlms.structure.specialization import Specialization, specialize
from sdlms.structure.subject import Subject
from sdlms.structure.tables import Row, curve_row, rate_warning
from sdlms.structure.thresholds import matched_thresholds, thresholds_of
from sdlms.structure.token_identity import Measured, token_identity

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
        identity: what permuted tokens keep of it, by row; empty without that control.
    """

    layer: int
    thresholds: NDArray[np.float32]
    counts: DocumentCounts
    own: Specialization
    controls: dict[str, Specialization]
    identity: dict[str, SpecializationRow]

    def levels(self) -> dict[str, Level]:
        """Mean specialization of the model and each control, shuffled labels among them."""
        levels = {name: _level(each) for name, each in {NONE: self.own, **self.controls}.items()}
        shuffled = self.own.shuffled
        chance = replace(
            levels[NONE],
            value=float(np.mean(shuffled)),
            draws=shuffled,
            significant_fraction=nan,
        )
        return levels | {SHUFFLED: chance}


def _level(found: Specialization) -> Level:
    """What the row of all tasks says."""
    row = found.rows[ALL]
    return Level(
        value=float(row["SI_adjusted"]),
        draws=found.resamples,
        units_scored=int(row["units_scored"]),
        firing_rate=float(row["firing_rate"]),
        significant_fraction=float(row["significant_fraction"]),
    )


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

    @property
    def matches(self) -> bool:
        """Whether fresh weights can be looked at with units that fire as often as the model's."""
        return REINIT in self.controls and self.controls[REINIT].has_firings

    @property
    def n_measured(self) -> int:
        """What is measured of each layer: the model, each control, and those matched."""
        return 1 + len(self.controls) + self.matches

    def measured(self, layers: Sequence[int], advance: Callable[[int], None]) -> list[Layer]:
        """Specialization of layers; a threshold rule that misses its rate is pointed out."""
        found = [self.measure(layer, advance) for layer in layers]
        rates = [float(layer.own.rows[ALL]["firing_rate"]) for layer in found]
        if missed := rate_warning(self.subject.rule.name, rates):
            LOGGER.warning(missed)
        return found

    def measure(self, layer: int, advance: Callable[[int], None]) -> Layer:
        """Specialization of a layer and its controls; told of each when it is done."""
        thresholds = thresholds_of(self.subject, layer)
        counts = document_counts(self.subject, layer, thresholds)
        own = specialize(counts, self.seed)
        advance(1)
        controls, identity = {}, {}
        for name, theirs in self._control_counts(layer, own.units["firing_rate"]):
            controls[name] = specialize(theirs, self.seed)
            if name == PERMUTED:
                both = Measured(counts, own), Measured(theirs, controls[name])
                identity = token_identity(*both, self.seed)
            advance(1)
        return Layer(layer, thresholds, counts, own, controls, identity)

    def _control_counts(
        self, layer: int, rates: NDArray[np.float64]
    ) -> Iterator[tuple[str, DocumentCounts]]:
        """Firings of each control; of fresh weights also at `[unit]` the model's own rates."""
        for name, control in self.controls.items():
            yield name, document_counts(control, layer, thresholds_of(control, layer))
            if name == REINIT and self.matches:
                limits = matched_thresholds(control, layer, rates)
                yield MATCHED, counted(control, layer, [limits])[0]

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

    def all_graphs(
        self, layers: Sequence[Layer], settings: GraphSettings, advance: Callable[[int], None]
    ) -> dict[int, LayerGraphs]:
        """Graphs of layers; before the first null is drawn it is told how long all will take."""
        names = [f"layer_{each.layer}" for each in layers]
        left = [draws_left(self.parts, name, settings.nulls) for name in names]
        first = next((position for position, n in enumerate(left) if n), None)
        found = {}
        for position, layer in enumerate(layers):
            foretold = sum(left) if position == first else 0
            own = settings._replace(foretold=foretold)
            found[layer.layer] = self.graphs(layer, own, advance)
        return found

    def graphs(
        self, layer: Layer, settings: GraphSettings, advance: Callable[[int], None]
    ) -> LayerGraphs:
        """Co-activation graphs of a layer, and their nulls."""
        path = self.scratch / f"layer_{layer.layer}.firings"
        firings = write_firings(self.subject, layer.layer, layer.thresholds, layer.counts, path)
        found = layer_graphs(firings, settings, self.parts, f"layer_{layer.layer}", advance)
        path.unlink()
        return found
