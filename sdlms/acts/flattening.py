"""Tokens of mask 1 of many documents, one after another, in memory: what is trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import Ranges, whole
from sdlms.acts.execution import run_plans
from sdlms.acts.handle import Acts
from sdlms.acts.sources import Positions, steps_of
from sdlms.errors import UserError


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The tokens of some documents that statistics read.

    Attributes:
        acts: `[layer, row, unit]` in the stored type, on the CPU, finite.
        offsets: `[document + 1]` the first row of each document.
        positions: `[row]` each token's position in its document, masked tokens counted.
    """

    acts: Tensor
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]


def token_counts(acts: Acts) -> NDArray[np.int64]:
    """`[document]` tokens of mask 1; reads the mask only.

    Raises:
        ValueError: tokens were pooled.
    """
    mask, offsets = _mask(acts)
    return np.add.reduceat(np.append(mask, 0), offsets[:-1], dtype=np.int64) * (
        np.diff(offsets) > 0
    )


def token_rows(acts: Acts) -> TokenRows:
    """Read every layer's tokens of mask 1; a model runs once for all layers.

    Args:
        acts: with tokens, not pooled; as much of it as fits the memory.

    Raises:
        UserError: an activation is NaN or infinite.
        ValueError: tokens or layers were pooled.
    """
    if acts.pools:
        raise ValueError(f"these activations were pooled ({', '.join(acts.pools)})")
    mask, offsets = _mask(acts)
    kept = np.concatenate([[0], np.cumsum(mask)])[offsets].astype(np.int64)
    sink = _RowSink(acts, torch.from_numpy(mask), offsets, kept)
    run_plans(acts._source, [acts._plan], [sink])
    return TokenRows(sink.rows, kept, steps_of(_ranges(acts))[mask])


class _RowSink:
    """Where rows of mask 1 go."""

    def __init__(
        self, acts: Acts, mask: Tensor, offsets: NDArray[np.int64], kept: NDArray[np.int64]
    ) -> None:
        self._acts, self._mask, self._offsets, self._kept = acts, mask, offsets, kept
        size = (len(acts.layers), int(kept[-1]), acts.n_units)
        self.rows = torch.empty(size, dtype=acts.dtype)

    def put(self, layer: int, positions: Positions, acts: Tensor) -> None:
        """Copy what is read of each document to its place."""
        lengths = (self._offsets[positions + 1] - self._offsets[positions]).tolist()
        for position, piece in zip(positions.tolist(), torch.split(acts, lengths), strict=True):
            mask = self._mask[self._offsets[position] : self._offsets[position + 1]]
            chosen = piece.cpu()[mask]
            if not bool(chosen.float().sum().isfinite()) and not bool(chosen.isfinite().all()):
                raise UserError(
                    f"an activation of document {self._acts.document_ids[position]}, layer "
                    f"{self._acts.layers[layer]}, is NaN or infinite. Leave the document out, or "
                    "capture it again."
                )
            self.rows[layer, self._kept[position] : self._kept[position + 1]] = chosen


def _mask(acts: Acts) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """`[row]` what statistics read, and `[document + 1]` the first row of each document."""
    if "s" not in acts.dims:
        raise ValueError(f"these activations have dims '{acts.dims}', no tokens")
    ranges = _ranges(acts)
    return acts._source.mask(ranges), ranges.offsets


def _ranges(acts: Acts) -> Ranges:
    """Every row of its documents."""
    return whole(acts._source.description, acts._plan.chosen(acts._source.description))
