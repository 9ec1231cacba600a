"""Where things live in each family of models, keyed by `config.model_type`.

Layers are numbered from 0: `layer` n is the n-th transformer block. The *residual before block n*
(`resid_pre`) is what block n receives, the *residual after block n* (`resid_post`) what it returns,
so `resid_post` of layer n is `resid_pre` of layer n + 1. Both are raw: the model's final norm comes
after the last `resid_post`. The other sites lie inside the block:

- `mlp_act`: the neurons, which are the input of the MLP's down projection;
- `attn_out`, `mlp_out`: what attention and MLP add to the residual stream, so that
  `resid_post = resid_pre + attn_out + mlp_out`. Where the block norms the sums themselves (BERT,
  opt-350m; `norm_after_addition`), `resid_post = norm(norm(resid_pre + attn_out) + mlp_out)`.

Importing this module loads neither torch nor transformers: settings are checked against the table
before anything heavy is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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


def _never(config: PreTrainedConfig) -> bool:
    return False


def _always(config: PreTrainedConfig) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Module paths and config facts of one `model_type`.

    `blocks`, `final_norm` and `project_out` are paths in the base model (`AutoModel`), all others
    in the block. Config attributes are those of `text_config(config)`. `mlp`, `parallel_residual`
    and `norm_after_addition` serve the checks of an entry and stages to come.
    """

    blocks: str
    """The list of transformer blocks."""
    attn_out: str
    """Its output is what attention adds to the residual stream: the output projection, or the norm
    that stands between it and the stream."""
    mlp_out: str
    """The same for the MLP."""
    mlp: str | None
    """The module from the MLP's input to the output of its down projection; None where no one
    module is that (BERT, OPT)."""
    up: tuple[str, ...]
    """The linear maps into the neurons; first the one whose output is activated (the gate)."""
    down_projection: str
    """The MLP's last linear map; its input is the neurons."""
    final_norm: str | None
    """The norm after the last block; None where each block ends in its own norm. Where the config
    decides, the model's attribute is None (OPT)."""
    gated: bool
    """Whether a neuron is act(gate) x up instead of act(up)."""
    causal: bool
    """Whether a token sees only earlier ones, so that right padding needs no attention mask."""
    d_mlp: str = "intermediate_size"
    """Config attribute of the number of neurons; a value of None means 4 x the hidden size."""
    activation: str = "hidden_act"
    """Config attribute of the name of the MLP's activation function."""
    parallel_residual: Callable[[PreTrainedConfig], bool] = _never
    """Whether the MLP reads the residual before the block instead of the one after attention."""
    norm_after_addition: Callable[[PreTrainedConfig], bool] = _never
    """Whether the block norms the residual stream itself, after each addition to it."""
    project_out: str | None = None
    """A linear map between final norm and unembedding; its attribute may be None, as above."""
    logit_cap: str | None = None
    """Config attribute of c where the logits are c x tanh(logits / c); a value of None: they are
    not."""
    refused: tuple[str, ...] = ()
    """Config attributes which, when set, make another kind of model than this entry describes."""

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


_GPT2 = Architecture(
    blocks="h",
    attn_out="attn.c_proj",
    mlp_out="mlp.c_proj",
    mlp="mlp",
    up=("mlp.c_fc",),
    down_projection="mlp.c_proj",
    final_norm="ln_f",
    gated=False,
    causal=True,
    d_mlp="n_inner",
    activation="activation_function",
)
_LLAMA = Architecture(
    blocks="layers",
    attn_out="self_attn.o_proj",
    mlp_out="mlp.down_proj",
    mlp="mlp",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down_projection="mlp.down_proj",
    final_norm="norm",
    gated=True,
    causal=True,
)
# Their norms stand behind attention and MLP, before the addition.
_OLMO2 = replace(_LLAMA, attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm")
_GEMMA = replace(_OLMO2, activation="hidden_activation", refused=("use_bidirectional_attention",))

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        blocks="encoder.layer",
        # Not `attention` and `output`: those add the residual and apply the norm themselves.
        attn_out="attention.output.dense",
        mlp_out="output.dense",
        mlp=None,
        up=("intermediate.dense",),
        down_projection="output.dense",
        final_norm=None,
        gated=False,
        causal=False,
        norm_after_addition=_always,
    ),
    "gemma2": replace(_GEMMA, logit_cap="final_logit_softcapping"),
    # With a vision tower. Its causal model ignores `final_logit_softcapping`.
    "gemma3": replace(_GEMMA, blocks="language_model.layers", final_norm="language_model.norm"),
    "gemma3_text": replace(_GEMMA, logit_cap="final_logit_softcapping"),
    "gpt2": _GPT2,
    "gpt_neo": replace(_GPT2, attn_out="attn.attention.out_proj", d_mlp="intermediate_size"),
    "gpt_neox": Architecture(
        blocks="layers",
        attn_out="attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        mlp="mlp",
        up=("mlp.dense_h_to_4h",),
        down_projection="mlp.dense_4h_to_h",
        final_norm="final_layer_norm",
        gated=False,
        causal=True,
        parallel_residual=lambda config: bool(config.use_parallel_residual),
    ),
    "gptj": replace(
        _GPT2,
        attn_out="attn.out_proj",
        mlp_out="mlp.fc_out",
        up=("mlp.fc_in",),
        down_projection="mlp.fc_out",
        parallel_residual=_always,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": _OLMO2,
    "opt": Architecture(
        blocks="decoder.layers",
        attn_out="self_attn.out_proj",
        mlp_out="fc2",
        mlp=None,
        up=("fc1",),
        down_projection="fc2",
        final_norm="decoder.final_layer_norm",
        gated=False,
        causal=True,
        d_mlp="ffn_dim",
        activation="activation_function",
        norm_after_addition=lambda config: not config.do_layer_norm_before,
        project_out="decoder.project_out",
    ),
    "phi": Architecture(
        blocks="layers",
        attn_out="self_attn.dense",
        mlp_out="mlp.fc2",
        mlp="mlp",
        up=("mlp.fc1",),
        down_projection="mlp.fc2",
        final_norm="final_layernorm",
        gated=False,
        causal=True,
        parallel_residual=_always,
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def architecture_of(model_type: str) -> Architecture:
    """The table's entry for `config.model_type`.

    Raises:
        UserError: If the table has no such entry.
    """
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UserError(
            f"unknown model_type '{model_type}'; the architecture table knows {known}. To add it, "
            "give ARCHITECTURES in sdlms/models/architectures.py an entry: where blocks, attention "
            "output, MLP output, down projection and final norm live, gated or not, causal or not "
            '(steps and checks: CONTRIBUTING.md, "Adding an architecture").'
        )
    return ARCHITECTURES[model_type]


def architecture_for(config: PreTrainedConfig) -> Architecture:
    """The table's entry for a model, if the entry describes what its config makes of the family.

    Raises:
        UserError: If the table has no entry for `config.model_type`, or the config sets one of the
            entry's `refused` attributes.
    """
    architecture = architecture_of(config.model_type)
    for name in architecture.refused:
        if value := getattr(text_config(config), name, None):
            raise UserError(
                f"model_type '{config.model_type}' with {name}={value} is not supported: the "
                f"architecture table describes the family without {name}. Use another model."
            )
    return architecture


def check_causal(config: PreTrainedConfig) -> None:
    """Make sure that the model predicts next tokens.

    Raises:
        UserError: If it is an encoder, or the table does not describe it.
    """
    if not architecture_for(config).causal:
        raise UserError(
            f"model_type '{config.model_type}' is an encoder: it predicts no next token, so its "
            "residuals have no logits. Use a causal model."
        )


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config that holds the text model's sizes; a part of the whole where there are images."""
    return config.get_text_config()


def n_layers(config: PreTrainedConfig) -> int:
    """The number of transformer blocks."""
    return int(text_config(config).num_hidden_layers)


def n_units(config: PreTrainedConfig, site: Site) -> int:
    """The number of units at `site`: neurons for `mlp_act`, the hidden size otherwise.

    Raises:
        UserError: If the table does not describe the model.
    """
    text = text_config(config)
    architecture = architecture_for(config)
    d_model = int(text.hidden_size)
    if site != "mlp_act":
        return d_model
    d_mlp = getattr(text, architecture.d_mlp)
    return 4 * d_model if d_mlp is None else int(d_mlp)


def activation_name(config: PreTrainedConfig) -> str:
    """The name of the MLP's activation function as transformers spells it: `relu`, `gelu`, ...

    Raises:
        UserError: If the table does not describe the model.
    """
    return str(getattr(text_config(config), architecture_for(config).activation))


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks of a base model, in order.

    Raises:
        UserError: If the table does not describe the model.
        ValueError: If `model` carries a head; its `base_model` is what is wanted.
    """
    if model.base_model is not model:
        raise ValueError(f"{type(model).__name__} is not a base model; pass its .base_model")
    path = architecture_for(model.config).blocks
    return cast("nn.ModuleList", model.get_submodule(path))
