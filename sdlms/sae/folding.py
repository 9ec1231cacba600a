"""A learner's weights in raw units, with decoder rows of norm 1: what is saved."""

from torch import Tensor

from sdlms.sae.recipe import Kind

# These compare activations times the norm of their decoder row, also with their threshold.
RESCALED: tuple[Kind, ...] = ("topk", "batchtopk", "matryoshka")


def folded(kind: Kind, weights: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights that do on raw activations what `weights` do on scaled ones.

    The norms of the decoder rows go into the encoder, biases and thresholds, so that a latent's
    activation is the length of what it adds to the reconstruction. A latent whose decoder row is 0
    keeps its encoder; in a rescaled kind, where it never fires, it gets one of 0.

    Args:
        kind: what was trained.
        weights: `Learner.weights()`.
        scale: what activations were multiplied by before the learner saw them.

    Returns:
        New float32 tensors on the CPU, by the same names: computed in float64, rounded once.
    """
    exact = {name: tensor.detach().cpu().double() for name, tensor in weights.items()}
    norms = exact["W_dec"].norm(dim=1)
    lengths = norms.where(norms > 0, 1.0)
    factors = norms if kind in RESCALED else lengths
    raw = {
        "W_enc": exact["W_enc"] * factors,
        "W_dec": exact["W_dec"] / lengths[:, None],
        "b_dec": exact["b_dec"] / scale,
    }
    if "threshold" in exact:
        raw["threshold"] = exact["threshold"] * (1.0 if kind in RESCALED else factors) / scale
    if "r_mag" in exact:  # the logarithm of a ratio: no unit
        raw["r_mag"] = exact["r_mag"]
    for name in {"b_enc", "b_gate", "b_mag"} & set(exact):
        raw[name] = exact[name] * factors / scale
    return {name: raw[name].float().contiguous() for name in sorted(raw)}
