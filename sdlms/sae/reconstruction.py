"""How near reconstructions come to their rows: five numbers of each row, and what they give.

The definitions stand in `sdlms.sae.evaluation`.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.ratio_bootstrap import ratio_interval


class RowValues(NamedTuple):
    """`[row]` float64 each; x is a row, y its reconstruction, m the mean of the training rows.

    Attributes:
        error: |x - y|^2.
        bias_error: the same where no latent is active.
        energy: |x - m|^2.
        kept: |y - m|^2.
        product: (x - m)(y - m).
    """

    error: NDArray[np.float64]
    bias_error: NDArray[np.float64]
    energy: NDArray[np.float64]
    kept: NDArray[np.float64]
    product: NDArray[np.float64]


def row_values(acts: Tensor, outputs: Tensor, nothing: Tensor, mean: Tensor) -> NDArray[np.float64]:
    """`[value, row]`, the values in the order of `RowValues`; there is no float64 on mps."""
    device = torch.device("cpu") if acts.device.type == "mps" else acts.device
    x, y, bias = (tensor.to(device).double() for tensor in (acts, outputs, nothing))
    errors = [(y - x).square().sum(dim=1), (bias - x).square().sum(dim=1)]
    x, y = x - mean.to(device), y - mean.to(device)
    found = [*errors, x.square().sum(dim=1), y.square().sum(dim=1), (x * y).sum(dim=1)]
    values: NDArray[np.float64] = torch.stack(found).cpu().numpy()
    return values


def fvu_interval(values: RowValues, offsets: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Of the FVU, over documents that have rows."""
    lengths = np.diff(offsets)
    documents = np.repeat(np.arange(len(lengths)), lengths)
    errors, energies = (
        np.bincount(documents, weights, minlength=len(lengths)).astype(np.float64)[lengths > 0]
        for weights in (values.error, values.energy)
    )
    return ratio_interval(errors, energies, seed=seed)


def reconstruction_of(values: RowValues) -> dict[str, float]:
    """Everything that is not about sparsity; NaN where it is undefined."""
    energy, kept = np.sqrt(values.energy), np.sqrt(values.kept)
    lengths = kept[energy > 0] / energy[energy > 0]
    both = (energy > 0) & (kept > 0)
    cosines = values.product[both] / (energy[both] * kept[both])
    total = values.energy.sum()
    fvu = _ratio(values.error.sum(), total)
    return {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "bias_only_fvu": _ratio(values.bias_error.sum(), total),
        "shrinkage": _ratio(lengths.sum(), len(lengths)),
        "reconstruction_bias": _ratio(values.kept.sum(), values.product.sum()),
        "cosine": _ratio(cosines.sum(), len(cosines)),
    }


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else math.nan


def reason_of(found: dict[str, float], n_rows: int) -> str:
    """Why something is NaN."""
    if not n_rows:
        return "no rows"
    if math.isnan(found["fvu"]):
        return "every row is the mean of the training rows"
    if math.isnan(found["cosine"]):
        return "every reconstruction is the mean of the training rows"
    if math.isnan(found["reconstruction_bias"]):
        return "no reconstruction goes the way of its row"
    return ""
