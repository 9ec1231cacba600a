"""How much of their specialization units keep when the tokens of each document are permuted."""

from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import centred, percentile_interval, weighted_index
from sdlms.structure.firing import ALL, DocumentCounts
from sdlms.structure.specialization import (
    Row,
    Specialization,
    mean_over,
    resampled_documents,
    significant_units,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Measured(NamedTuple):
    """A layer of one run."""

    counts: DocumentCounts
    found: Specialization


def token_identity(own: Measured, permuted: Measured, seed: int) -> dict[str, Row]:
    """Compare the units of a layer with themselves under permuted tokens.

    A task's row is about the units that prefer it in the model itself: under permuted tokens
    others may prefer it, and a mean over those would compare other units. Both runs draw the
    same documents, so that what a draw does to both leaves their ratio as it is.

    Args:
        own: of the model itself.
        permuted: the same documents in the same order, their tokens permuted.
        seed: of the resamples.

    Returns:
        `all` and each task -> SI_adjusted_permuted and token_identity_fraction, with 95 %
        intervals, and significant_fraction_permuted: means over units that are scored in both
        runs. The fraction is NaN where the model's own interval holds 0.
    """
    both = own.found.scored & permuted.found.scored
    draws = _resampled(own, both, seed), _resampled(permuted, both, seed)
    preferred = own.found.units["preferred_task"]
    groups = {name: preferred == task for task, name in enumerate(own.counts.task_names)}
    return {
        name: _row((own, permuted), draws, both, group & both)
        for name, group in ({ALL: both} | groups).items()
    }


def _resampled(layer: Measured, both: Flags, seed: int) -> Floats | None:
    """`[resample, unit of both]` SI_adjusted, with E0 as in the data; None of too few documents."""
    counts = layer.counts
    weights = resampled_documents(counts, seed)
    if weights is None or not both.any():
        return None
    index = weighted_index(counts.counts[:, both], counts.n_tokens, counts.tasks, weights)
    chance = layer.found.units["SI_chance"][both]
    adjusted: Floats = (index - chance) / (1 - chance)
    return adjusted


def _row(
    layers: tuple[Measured, Measured],
    draws: tuple[Floats | None, Floats | None],
    both: Flags,
    group: Flags,
) -> Row:
    """Columns of one group of units."""
    own, kept = (mean_over(each.found.units["SI_adjusted"], group) for each in layers)
    low = high = fraction = fraction_low = fraction_high = nan
    if draws[0] is not None and draws[1] is not None and group.any():
        own_draws = centred(draws[0][:, group[both]].mean(axis=1), own)
        kept_draws = centred(draws[1][:, group[both]].mean(axis=1), kept)
        low, high = percentile_interval(kept_draws)
        if percentile_interval(own_draws)[0] > 0:
            fraction = kept / own
            fraction_low, fraction_high = percentile_interval(kept_draws / own_draws)
    return {
        "SI_adjusted_permuted": kept,
        "SI_adjusted_permuted_low": low,
        "SI_adjusted_permuted_high": high,
        "significant_fraction_permuted": mean_over(significant_units(layers[1].found.units), group),
        "token_identity_fraction": fraction,
        "token_identity_fraction_low": fraction_low,
        "token_identity_fraction_high": fraction_high,
    }
