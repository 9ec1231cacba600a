"""Tiny random models of every architecture, each with what its family can be configured to do."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from sdlms.models.architectures import SITES, Site, architecture_of, n_layers
from sdlms.models.recording import recording

Settings = dict[str, object]

SMALL: Settings = {"vocab_size": 50}
WIDE: Settings = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED: Settings = {"intermediate_size": 24, "num_key_value_heads": 2, **WIDE}
PLAIN: Settings = {"intermediate_size": 40, **WIDE}
OPT: Settings = {"model_type": "opt", "ffn_dim": 40, "max_position_embeddings": 32, **WIDE}
GPT2: Settings = {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32}
# Windows shorter than the 9 tokens of INPUT_IDS, and caps that bind.
GEMMA: Settings = {
    "head_dim": 4,
    "query_pre_attn_scalar": 4,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "final_logit_softcapping": 2.0,
    **GATED,
}
VISION: Settings = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}

CASES: dict[str, Settings] = {
    "bert": {
        "model_type": "bert",
        "max_position_embeddings": 32,
        **PLAIN,
        "num_hidden_layers": 4,
    },
    "gemma2": {"model_type": "gemma2", "attn_logit_softcapping": 0.5, **GEMMA},
    "gemma3": {
        "model_type": "gemma3",
        "text_config": GEMMA,
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
    },
    "gemma3_text": {"model_type": "gemma3_text", **GEMMA},
    "gemma3_text-uncapped": {
        "model_type": "gemma3_text",
        **GEMMA,
        "final_logit_softcapping": None,
    },
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2-n_inner": {"model_type": "gpt2", "n_inner": 24, **GPT2, "n_layer": 4},
    "gpt_neo": {
        "model_type": "gpt_neo",
        "window_size": 4,
        "attention_types": [[["global", "local"], 2]],
        "max_position_embeddings": 32,
        **WIDE,
        "num_hidden_layers": 4,
    },
    "gpt_neo-narrow": {
        "model_type": "gpt_neo",
        "attention_types": [[["local"], 3]],
        "window_size": 4,
        "max_position_embeddings": 32,
        **PLAIN,
    },
    "gpt_neox-parallel": {"model_type": "gpt_neox", **PLAIN},
    "gpt_neox-sequential": {
        "model_type": "gpt_neox",
        "use_parallel_residual": False,
        "hidden_act": "relu",
        **PLAIN,
        "num_hidden_layers": 4,
    },
    "gptj": {"model_type": "gptj", "rotary_dim": 2, **GPT2},
    "gptj-n_inner": {"model_type": "gptj", "rotary_dim": 4, "n_inner": 24, **GPT2},
    "llama": {"model_type": "llama", **GATED},
    "llama-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, **GATED},
    "mistral": {"model_type": "mistral", "sliding_window": 4, **GATED},
    "olmo2": {"model_type": "olmo2", **GATED},
    "opt": OPT,
    "opt-bare": {
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "_remove_final_layer_norm": True,
        **OPT,
    },
    # As opt-350m is.
    "opt-projected": {"word_embed_proj_dim": 12, "do_layer_norm_before": False, **OPT},
    "phi": {"model_type": "phi", **PLAIN},
    "phi-qk_layernorm": {"model_type": "phi", "qk_layernorm": True, **PLAIN},
    "qwen2": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        **GATED,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 8, **GATED},
}
CAUSAL = [name for name in CASES if architecture_of(str(CASES[name]["model_type"])).causal]
INPUT_IDS = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(0))
LENGTHS = (5, 9, 7)

EVERY_CASE = pytest.mark.parametrize("name", CASES)
EVERY_CAUSAL_CASE = pytest.mark.parametrize("name", CAUSAL)


def config_of(name: str, settings: Settings | None = None) -> PreTrainedConfig:
    """The config of a case; `settings` are the text model's."""
    case, changes = CASES[name], {**SMALL, **(settings or {})}
    if "text_config" in case:
        changes = {"text_config": {**case["text_config"], **changes}}
    return AutoConfig.for_model(**{**case, **changes})


def randomise_(model: PreTrainedModel) -> None:
    """Every parameter at random: a norm of weight 1 or a bias of 0 would hide what is wrong."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and not name.endswith("bias"):  # the weight of a norm
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, std=0.2)


def random_model(
    name: str, model_class: type = AutoModel, settings: Settings | None = None
) -> PreTrainedModel:
    """A model in eval mode, float32."""
    model = model_class.from_config(config_of(name, settings), dtype=torch.float32)
    randomise_(model)
    return model.eval()


def padding_mask(model: PreTrainedModel) -> Tensor | None:
    """Right padding for encoders, which always get their mask; none for causal models."""
    if architecture_of(model.config.model_type).causal:
        return None
    return (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long()


def record_everything(model: PreTrainedModel) -> dict[tuple[Site, int], Tensor]:
    with recording(model, range(n_layers(model.config)), SITES) as recorded:
        return recorded.run(INPUT_IDS, padding_mask(model))


@torch.no_grad()
def own_hidden_states(model: PreTrainedModel) -> tuple[Tensor, ...]:
    mask = padding_mask(model)
    return model(INPUT_IDS, attention_mask=mask, output_hidden_states=True).hidden_states
