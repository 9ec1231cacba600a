"""Specialization beside its controls, layer by layer and over all of them: `controls.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import percentile_interval
from sdlms.structure.tables import MEAN, Row

NONE = "none"  # the model itself, as capture's `--control` calls it
SHUFFLED = "shuffled-labels"
REINIT, PERMUTED = "reinit", "permute-tokens"
MATCHED = "reinit-matched"  # fresh weights, their thresholds such that units fire as often


@dataclass(frozen=True, eq=False)
class Level:
    """Mean specialization of the units of one layer, or over layers.

    Attributes:
        value: adjusted SI; NaN where no unit is scored.
        draws: `[resample]` the same in other documents, or under other labels.
        units_scored: over which it is a mean.
        firing_rate: of these, over tokens.
        significant_fraction: share of these with q < 0.05; NaN where it was not worked out.
    """

    value: float
    draws: NDArray[np.float64]
    units_scored: int
    firing_rate: float
    significant_fraction: float

    def row(self, layer: int | str, control: str) -> Row:
        """A row of `controls.csv`; the interval holds 95 % of the draws."""
        low, high = percentile_interval(self.draws)
        return {
            "layer": layer,
            "control": control,
            "SI_adjusted": self.value,
            "SI_adjusted_low": low,
            "SI_adjusted_high": high,
            "significant_fraction": self.significant_fraction,
            "firing_rate": self.firing_rate,
            "units_scored": self.units_scored,
        }


def mean_level(levels: Sequence[Level]) -> Level:
    """The mean over layers, each of which counts the same; its draws are those of the layers.

    Layers must have drawn the same documents: they are measured on the same text, so that what
    one gains by a document the others often gain too.
    """
    if not levels:
        return Level(nan, np.full(1, nan), 0, nan, nan)
    return Level(
        value=float(np.mean([level.value for level in levels])),
        draws=np.mean([level.draws for level in levels], axis=0),
        units_scored=sum(level.units_scored for level in levels),
        firing_rate=float(np.mean([level.firing_rate for level in levels])),
        significant_fraction=float(np.mean([level.significant_fraction for level in levels])),
    )


def control_rows(levels: Mapping[str, Mapping[int, Level]]) -> Iterator[Row]:
    """Rows of `controls.csv`.

    Args:
        levels: `control -> layer -> level`; the model itself is `none`.
    """
    layers = list(levels[NONE])
    for layer in layers:
        for control, own in levels.items():
            yield own[layer].row(layer, control)
    for control, own in levels.items():
        yield mean_level([own[layer] for layer in layers]).row(MEAN, control)
