"""Pool the tokens of each document, whatever the stored type, in float32."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PoolKind = Literal["mean", "sum", "max", "last"]


def pool_documents(
    rows: Tensor, offsets: NDArray[np.int64], mask: NDArray[np.bool_], kind: PoolKind
) -> Tensor:
    """One vector per document from its tokens of mask 1.

    Args:
        rows: `[token, unit]`, any float dtype; documents follow one another.
        offsets: `[document + 1]`, rows offsets[d] … offsets[d + 1] are document d's.
        mask: `[token]`; only rows of mask 1 are read.
        kind: `mean` and `sum` add up in float32; `max` per unit; `last` is the last token.

    Returns:
        `[document, unit]` float32. Of a document without tokens of mask 1 the sum is 0,
        everything else NaN.
    """
    pooled = torch.empty((len(offsets) - 1, rows.shape[1]), dtype=torch.float32, device=rows.device)
    pool = _POOLS[kind]
    ends = offsets.tolist()
    whole = mask.all()
    for document, (first, last) in enumerate(pairwise(ends)):
        piece = rows[first:last]
        if not whole:
            piece = _kept(piece, mask[first:last])
        if len(piece):
            pool(piece, pooled[document])
        else:
            pooled[document] = 0.0 if kind == "sum" else torch.nan
    return pooled


def _kept(piece: Tensor, mask: NDArray[np.bool_]) -> Tensor:
    """Rows of mask 1; without a copy where they follow one another, as they nearly always do."""
    kept = np.flatnonzero(mask)
    if len(kept) == 0:
        return piece[:0]
    first, last = int(kept[0]), int(kept[-1]) + 1
    if last - first == len(kept):
        return piece[first:last]
    return piece[torch.from_numpy(kept).to(piece.device)]


def _mean(piece: Tensor, out: Tensor) -> None:
    torch.mean(piece, 0, dtype=torch.float32, out=out)


def _sum(piece: Tensor, out: Tensor) -> None:
    torch.sum(piece, 0, dtype=torch.float32, out=out)


def _max(piece: Tensor, out: Tensor) -> None:
    out.copy_(piece.amax(0))


def _last(piece: Tensor, out: Tensor) -> None:
    out.copy_(piece[-1])


_POOLS: dict[PoolKind, Callable[[Tensor, Tensor], None]] = {
    "mean": _mean,
    "sum": _sum,
    "max": _max,
    "last": _last,
}
