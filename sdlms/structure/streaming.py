"""A layer's tokens of mask 1, document by document, read block by block."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import whole
from sdlms.acts.sources import Positions, Wanted
from sdlms.acts.threads import one_thread
from sdlms.structure.subject import Subject

Take = Callable[[int, Tensor], None]


def scan_documents(subject: Subject, layer: int, chosen: NDArray[np.int64], take: Take) -> None:
    """Read some documents of a layer once, in the order in which they are named.

    Args:
        subject: with activations by token.
        layer: of its layers.
        chosen: positions in `subject.documents`.
        take: is given an index into `chosen`, and `[token, unit]` in the stored type; these rows
            are overwritten afterwards.

    Raises:
        UserError: the file is damaged or gone.
        ValueError: the run kept no activations.
    """
    source = subject.source
    if source is None:
        raise ValueError(f"{subject.run.name} kept no activations")
    ranges = whole(source.description, subject.documents.indices[chosen])
    mask, offsets = torch.from_numpy(source.mask(ranges)), ranges.offsets.tolist()

    def hand_over(_: int, positions: Positions, found: list[Tensor]) -> None:
        begin = offsets[positions[0]]
        for position in positions.tolist():
            first, last = offsets[position], offsets[position + 1]
            rows, kept = found[0][first - begin : last - begin], mask[first:last]
            take(position, rows if bool(kept.all()) else rows[kept])

    with one_thread():
        wanted = Wanted(ranges, [layer], masked=False, together=False)
        source.scan(wanted, lambda _, acts: [acts], hand_over)
