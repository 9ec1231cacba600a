"""Models that are little more than a norm and an unembedding, and their lens by brute force."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sdlms.models.unembedding import unembedding_input, unembedding_of


def head_model(model_type: str, d_model: int, d_vocab: int, scale: float = 1.0) -> PreTrainedModel:
    """One block, untied weights; logits of the standard deviation `scale`, biases where it has."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=d_vocab,
        hidden_size=d_model,
        n_embd=d_model,
        num_hidden_layers=1,
        n_layer=1,
        num_attention_heads=4,
        n_head=4,
        intermediate_size=8,
        n_inner=8,
        rotary_dim=4,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    head = unembedding_of(model)
    head.weight.data = torch.randn(d_vocab, d_model) * scale / d_model**0.5
    if head.bias is not None:
        head.bias.data = torch.randn(d_vocab) * scale
    return model.requires_grad_(False)


class Brute(NamedTuple):
    """Everything from a float64 softmax over all logits, `[token, state, ...]`."""

    probabilities: Tensor
    entropy_nats: Tensor
    log_normalizer: Tensor
    kl_to_final_nats: Tensor
    logs: Tensor


def brute_force(model: PreTrainedModel, states: Tensor) -> Brute:
    """The lens of a model without logit cap; its logits in float64 from its own normed states."""
    head = unembedding_of(model)
    logits = unembedding_input(model, states).double() @ head.weight.double().T
    if head.bias is not None:
        logits += head.bias.double()
    logs = logits.log_softmax(-1)
    probabilities = logs.exp()
    entropy = -(probabilities * logs).sum(-1)
    kl = (probabilities[:, -1:] * (logs[:, -1:] - logs)).sum(-1)
    return Brute(probabilities, entropy, logits.logsumexp(-1), kl, logs)


def ranks_of(logs: Tensor, ids: Tensor) -> Tensor:
    """`[token, state]` of one token each, `[token]`."""
    own = logs.gather(-1, ids[:, None, None].expand(-1, logs.shape[1], 1))
    return 1 + (logs > own).sum(-1)


def related_states(n_tokens: int, n_states: int, d_model: int) -> Tensor:
    """States that approach the final one, as a residual stream does."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(n_tokens, n_states, d_model, generator=generator)
    return steps.cumsum(1)
