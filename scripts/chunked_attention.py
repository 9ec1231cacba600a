"""Causal attention in chunks of queries: half the work of a full mask, fast on one CPU core.

torch's own attention for the CPU takes half of the training time at a head size of 24; plain matrix
products in bfloat16 over the keys that a chunk can see take a third of that.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

CHUNKED = "sdlms_chunked"
CHUNK = 128


def chunked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over `[batch, head, token, d_head]` for whole windows, without padding."""
    n_tokens = query.shape[2]
    future = torch.full((n_tokens, n_tokens), float("-inf"), dtype=query.dtype).triu(1)
    query = query * scaling
    parts = []
    for start in range(0, n_tokens, CHUNK):
        end = start + CHUNK
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2)
        weights = (scores + future[start:end, :end]).softmax(-1)
        parts.append(weights @ value[:, :, :end])
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(CHUNKED, chunked_attention)
