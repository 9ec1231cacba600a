"""Mean ablation of some units: what takes their place while a model runs."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts import Acts
from sdlms.errors import UserError
from sdlms.models.replacing import Replace
from sdlms.sae.dictionary import Dictionary

BATCH_DOCUMENTS = 1024


def unit_means(acts: Acts, n_tokens: int) -> Tensor:
    """The mean of each unit over all tokens of mask 1, summed up in float64.

    Args:
        acts: of one layer, dims `bsh`.
        n_tokens: of mask 1 in all documents, > 0.

    Returns:
        `[unit]` float32.

    Raises:
        UserError: an activation is NaN or infinite.
    """
    sums = torch.zeros(acts.n_units, dtype=torch.float64)
    for batch in acts.sum_pool().iter_batches(BATCH_DOCUMENTS):
        sums += batch.tensor.double().sum(dim=0)
    if not bool(sums.isfinite().all()):
        raise UserError(
            f"activations of layer {acts.layers[0]} are not all finite. Capture anew "
            "(--store-dtype float32, --dtype float32), or leave the layer out."
        )
    return (sums / n_tokens).float()


def units_at_mean(units: NDArray[np.int64], means: Tensor) -> Replace:
    """Some units are held at their mean; the others stay as they are.

    Args:
        units: `[n]` int64, which.
        means: `[unit]` float32 of all units, on the device of the site.
    """
    index = torch.from_numpy(units).to(means.device)

    def held(acts: Tensor) -> Tensor:
        changed = acts.clone()
        changed[:, index] = means[index]
        return changed

    return held


def latents_at_mean(dictionary: Dictionary, latents: NDArray[np.int64], means: Tensor) -> Replace:
    """Some latents are held at their mean; all else stays, the autoencoder's error too.

    What is added to the activations is what the change of these latents decodes to, in the scale of
    each token where the autoencoder normalizes tokens: that scale is the token's own, unchanged.

    Args:
        dictionary: on the device of the site.
        latents: `[n]` int64, which.
        means: `[latent]` float32 of all latents, on the same device.
    """
    index = torch.from_numpy(latents).to(means.device)
    own = replace(
        dictionary,
        tensors={
            "W_dec": dictionary.decoder[index],
            "b_dec": torch.zeros_like(dictionary.bias),
        },
    )

    def held(acts: Tensor) -> Tensor:
        change = means[index] - dictionary.encode(acts)[:, index]
        nothing = torch.zeros_like(change)  # decodes to the mean of each token under layer_norm
        return acts + (own.decode(change, acts) - own.decode(nothing, acts))

    return held
