"""Where things live in each family of models, keyed by `config.model_type`.

Layers are numbered from 0: `layer` n is the n-th transformer block. The *residual before block n*
(`resid_pre`) is what block n receives, the *residual after block n* (`resid_post`) what it returns,
so `resid_post` of layer n is `resid_pre` of layer n + 1. Both are raw: the model's final norm comes
after the last `resid_post`. The other sites lie inside the block:

- `mlp_act`: the neurons, which are the input of the MLP's down projection;
- `attn_out`, `mlp_out`: what attention and MLP add to the residual stream, so that
  `resid_post = resid_pre + attn_out + mlp_out`. Where each block ends in its own norm (BERT),
  `resid_post = norm(norm(resid_pre + attn_out) + mlp_out)`.

Importing this module loads neither torch nor transformers: settings are checked against the table
before anything heavy is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from sdlms.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

Site = Literal["mlp_act", "mlp_out", "attn_out", "resid_pre", "resid_post"]
SITES: tuple[Site, ...] = get_args(Site)


class Tap(NamedTuple):
    """The end of a module at which a site is read; path `""` is the block itself."""

    path: str
    end: Literal["input", "output"]


def _never_parallel(config: PreTrainedConfig) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Module paths and config facts of one `model_type`.

    `blocks` and `final_norm` are paths in the base model (`AutoModel`), all others in the block.
    `mlp`, `final_norm` and `parallel_residual` serve the checks of an entry and stages to come.
    """

    blocks: str
    """The list of transformer blocks."""
    attn_out: str
    """Its output is what attention adds to the residual stream: the output projection, or the norm
    that stands between it and the stream."""
    mlp_out: str
    """The same for the MLP."""
    mlp: str | None
    """The whole MLP, from normed residual to `mlp_out`; None where no one module is that (BERT)."""
    down_projection: str
    """The MLP's last linear map; its input is the neurons."""
    final_norm: str | None
    """The norm after the last block; None where each block ends in its own norm."""
    gated: bool
    """Whether a neuron is act(gate) x up instead of act(up)."""
    causal: bool
    """Whether a token sees only earlier ones, so that right padding needs no attention mask."""
    d_mlp: str = "intermediate_size"
    """Config attribute of the number of neurons; a value of None means 4 x the hidden size."""
    activation: str = "hidden_act"
    """Config attribute of the name of the MLP's activation function."""
    parallel_residual: Callable[[PreTrainedConfig], bool] = _never_parallel
    """Whether the MLP reads the residual before the block instead of the one after attention."""

    def tap(self, site: Site) -> Tap:
        """Where in the block `site` is read."""
        taps: dict[Site, Tap] = {
            "mlp_act": Tap(self.down_projection, "input"),
            "mlp_out": Tap(self.mlp_out, "output"),
            "attn_out": Tap(self.attn_out, "output"),
            "resid_pre": Tap("", "input"),
            "resid_post": Tap("", "output"),
        }
        return taps[site]


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        blocks="encoder.layer",
        # Not `attention` and `output`: those add the residual and apply the norm themselves.
        attn_out="attention.output.dense",
        mlp_out="output.dense",
        mlp=None,
        down_projection="output.dense",
        final_norm=None,
        gated=False,
        causal=False,
    ),
    "gpt2": Architecture(
        blocks="h",
        attn_out="attn.c_proj",
        mlp_out="mlp.c_proj",
        mlp="mlp",
        down_projection="mlp.c_proj",
        final_norm="ln_f",
        gated=False,
        causal=True,
        d_mlp="n_inner",
        activation="activation_function",
    ),
    "gpt_neox": Architecture(
        blocks="layers",
        attn_out="attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        mlp="mlp",
        down_projection="mlp.dense_4h_to_h",
        final_norm="final_layer_norm",
        gated=False,
        causal=True,
        parallel_residual=lambda config: bool(config.use_parallel_residual),
    ),
    "llama": Architecture(
        blocks="layers",
        attn_out="self_attn.o_proj",
        mlp_out="mlp.down_proj",
        mlp="mlp",
        down_projection="mlp.down_proj",
        final_norm="norm",
        gated=True,
        causal=True,
    ),
}


def architecture_of(model_type: str) -> Architecture:
    """The table's entry for `config.model_type`.

    Raises:
        UserError: If the table has no such entry.
    """
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UserError(
            f"unknown model_type '{model_type}'; the architecture table knows {known}. "
            'To add an entry: CONTRIBUTING.md, "Adding an architecture".'
        )
    return ARCHITECTURES[model_type]


def n_layers(config: PreTrainedConfig) -> int:
    """The number of transformer blocks."""
    return int(config.num_hidden_layers)


def n_units(config: PreTrainedConfig, site: Site) -> int:
    """The number of units at `site`: neurons for `mlp_act`, the hidden size otherwise.

    Raises:
        UserError: If the table has no entry for `config.model_type`.
    """
    d_model = int(config.hidden_size)
    if site != "mlp_act":
        return d_model
    d_mlp = getattr(config, architecture_of(config.model_type).d_mlp)
    return 4 * d_model if d_mlp is None else int(d_mlp)


def activation_name(config: PreTrainedConfig) -> str:
    """The name of the MLP's activation function as transformers spells it: `relu`, `gelu`, ...

    Raises:
        UserError: If the table has no entry for `config.model_type`.
    """
    return str(getattr(config, architecture_of(config.model_type).activation))


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks of a base model, in order.

    Raises:
        UserError: If the table has no entry for the model's type.
        ValueError: If `model` carries a head; its `base_model` is what is wanted.
    """
    if model.base_model is not model:
        raise ValueError(f"{type(model).__name__} is not a base model; pass its .base_model")
    path = architecture_of(model.config.model_type).blocks
    return cast("nn.ModuleList", model.get_submodule(path))
