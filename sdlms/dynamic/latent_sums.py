"""What one autoencoder makes of the dense and the gated activations: sums by document."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.dictionary import Dictionary

BLOCK_BYTES = 64 << 20  # of latents, or of float64 rows, that are there at a time
# Tokens; latents that fire in the dense model, in the gated one, in both; and for FVU the squared
# errors and the squared distances from the mean: of dense activations, of gated ones, and the
# error to dense activations where the gated ones are encoded.
NAMES = (
    *("tokens", "dense", "gated", "both"),
    *("dense_error", "dense_energy", "gated_error", "gated_energy", "crossed_error"),
)
Sums = NDArray[np.float64]


@torch.no_grad()
def latent_sums(
    dictionary: Dictionary,
    mean: Tensor,
    acts: tuple[Tensor, Tensor],
    documents: NDArray[np.int64],
    n_documents: int,
) -> Sums:
    """Encode and decode each token's activations, of the dense and of the gated model.

    Args:
        dictionary: on the device to compute on.
        mean: `[unit]` float64, from which distances are measured.
        acts: `[token, unit]` each, any float dtype: of the dense model, and of the gated one.
        documents: `[token]`, of each.
        n_documents: how many there are.

    Returns:
        `[name, document]`, in the order of `NAMES`.

    Raises:
        UserError: a latent or a reconstruction is not finite.
    """
    total = np.zeros((len(NAMES), n_documents))
    at_once = max(1, BLOCK_BYTES // max(4 * dictionary.width, 8 * dictionary.d_in))
    for first in range(0, len(documents), at_once):
        rows = slice(first, first + at_once)
        values = _values(dictionary, mean, *(each[rows] for each in acts))
        if not np.isfinite(values).all():
            raise UserError(
                "a latent or a reconstruction is not finite: this SAE cannot be used on what the "
                "model computes here. Leave out --sae, or use --dtype float32."
            )
        for sums, own in zip(total, values, strict=True):
            sums += np.bincount(documents[rows], own, minlength=n_documents)
    return total


def _values(dictionary: Dictionary, mean: Tensor, dense: Tensor, gated: Tensor) -> Sums:
    """`[name, token]`."""
    device = dictionary.decoder.device
    inputs = [acts.to(device).float() for acts in (dense, gated)]
    latents = [dictionary.encode(acts) for acts in inputs]
    outputs = [dictionary.decode(*pair) for pair in zip(latents, inputs, strict=True)]
    fired = [each > 0 for each in latents]
    # There is no float64 on mps.
    x, x_gated, y, y_gated = (tensor.cpu().double() for tensor in (*inputs, *outputs))
    counts = [
        torch.ones(len(x), dtype=torch.int64),
        *(each.sum(dim=1) for each in (*fired, fired[0] & fired[1])),
    ]
    distances = [x - y, x - mean, x_gated - y_gated, x_gated - mean, x - y_gated]
    errors = [distance.square().sum(dim=1) for distance in distances]
    # A latent that is not finite makes its reconstruction so.
    return np.stack([each.cpu().double().numpy() for each in (*counts, *errors)])


def by_name(sums: Sums) -> dict[str, Sequence[float]]:
    """`[name, document]` as JSON has it; counts are whole numbers."""
    found: dict[str, Sequence[float]] = {}
    for name, own in zip(NAMES, sums, strict=True):
        is_count = name in NAMES[:4]
        found[name] = own.astype(np.int64).tolist() if is_count else own.tolist()
    return found
