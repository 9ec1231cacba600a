"""What an autoencoder knows before its first update."""

import torch
from torch import Tensor

from sdlms.sae.recipe import Recipe

DECODER_NORM = 0.1
JUMPRELU_THRESHOLD = 0.01


def initial_weights(recipe: Recipe, mean: Tensor) -> dict[str, Tensor]:
    """The weights that sae-lens 6.54 starts from, but for the decoder's bias.

    They depend on the recipe's seed and sizes alone: not on torch's global random state, and not on
    the coefficient, so that the members of a sweep start equal.

    Args:
        recipe: its kind, sizes and seed.
        mean: `[unit]` of the scaled activations, where the decoder's bias starts; sae-lens has 0.

    Returns:
        float32 on the CPU, by sae-lens' names, as `Learner.weights` lists them; the threshold of
        batchtopk and matryoshka is measured in training and starts with it.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    decoder = torch.empty(recipe.width, recipe.d_in)
    torch.nn.init.kaiming_uniform_(decoder, generator=generator)
    decoder *= DECODER_NORM / decoder.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": decoder.T.contiguous(),
        "W_dec": decoder,
        "b_dec": mean.to("cpu", torch.float32, copy=True),
    }
    biases = ("b_gate", "b_mag", "r_mag") if recipe.kind == "gated" else ("b_enc",)
    for name in biases:
        weights[name] = torch.zeros(recipe.width)
    if recipe.kind == "jumprelu":
        weights["threshold"] = torch.full((recipe.width,), JUMPRELU_THRESHOLD)
    return weights
