"""The MLP of each family up to its neurons, in plain operations."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# The model, one of its blocks, the residual before it and the one after attention -> neurons.
ByHand = Callable[[PreTrainedModel, nn.Module, Tensor, Tensor], Tensor]


def layer_norm(norm: nn.Module, resid: Tensor) -> Tensor:
    centred = resid - resid.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    normed = centred / (variance + norm.eps).sqrt()
    return normed if norm.weight is None else normed * norm.weight + norm.bias


def over_root_mean_square(resid: Tensor, epsilon: float) -> Tensor:
    return resid / (resid.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def gelu_tanh(acts: Tensor) -> Tensor:
    return 0.5 * acts * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (acts + 0.044715 * acts**3)))


def gelu(acts: Tensor) -> Tensor:
    return acts * 0.5 * (1 + torch.erf(acts / 2**0.5))


def silu(acts: Tensor) -> Tensor:
    return acts * torch.sigmoid(acts)


def relu(acts: Tensor) -> Tensor:
    return acts.clamp(min=0)


def linear(module: nn.Module, acts: Tensor) -> Tensor:
    product = acts @ module.weight.T
    return product if module.bias is None else product + module.bias


def gated(mlp: nn.Module, normed: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    return activation(linear(mlp.gate_proj, normed)) * linear(mlp.up_proj, normed)


def bert(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    normed = layer_norm(block.attention.output.LayerNorm, mid)
    return gelu(linear(block.intermediate.dense, normed))


def gemma(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    norm = block.pre_feedforward_layernorm
    normed = over_root_mean_square(mid, norm.eps) * (1 + norm.weight)
    return gated(block.mlp, normed, gelu_tanh)


def gpt2(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    up = block.mlp.c_fc
    return gelu_tanh(layer_norm(block.ln_2, mid) @ up.weight + up.bias)


def gpt_neo(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    return gelu_tanh(linear(block.mlp.c_fc, layer_norm(block.ln_2, mid)))


def gpt_neox(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    resid = pre if model.config.use_parallel_residual else mid
    acts = linear(block.mlp.dense_h_to_4h, layer_norm(block.post_attention_layernorm, resid))
    return relu(acts) if model.config.hidden_act == "relu" else gelu(acts)


def gptj(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    return gelu_tanh(linear(block.mlp.fc_in, layer_norm(block.ln_1, pre)))


def llama(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    norm = block.post_attention_layernorm
    normed = over_root_mean_square(mid, norm.variance_epsilon) * norm.weight
    return gated(block.mlp, normed, silu)


def olmo2(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    return gated(block.mlp, mid, silu)


def opt(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    before = model.config.do_layer_norm_before
    norm = block.final_layer_norm if before else block.self_attn_layer_norm
    return relu(linear(block.fc1, layer_norm(norm, mid)))


def phi(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    return gelu_tanh(linear(block.mlp.fc1, layer_norm(block.input_layernorm, pre)))


NEURONS_BY_HAND: dict[str, ByHand] = {
    "bert": bert,
    "gemma2": gemma,
    "gemma3": gemma,
    "gemma3_text": gemma,
    "gpt2": gpt2,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "llama": llama,
    "mistral": llama,
    "olmo2": olmo2,
    "opt": opt,
    "phi": phi,
    "qwen2": llama,
    "qwen3": llama,
}
