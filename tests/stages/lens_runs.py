"""The logit lens by hand, every probability at once, and what runs of `logit-lens` are given."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

EXACT = ["--dtype", "float32", "--unembed", "float32", "--threads", "1", "--quiet"]
SMALL = ["--max-tokens", "400", *EXACT]
NORMS = {"gpt_neox": "final_layer_norm", "gpt2": "ln_f", "llama": "norm"}


class Plain(NamedTuple):
    """What the lens says of one document, `[token, state, ...]`; by the names of `lens.h5`."""

    held: dict[str, NDArray[np.generic]]
    top: NDArray[np.int64]
    next_ids: NDArray[np.int64]


@torch.no_grad()
def plain_lens(model: PreTrainedModel, ids: Tensor, k: int, targets: Sequence[int]) -> Plain:
    """Every state's logits from transformers' own hidden states, then full softmaxes."""
    output = model(ids[None], output_hidden_states=True)
    norm = getattr(model.base_model, NORMS[model.config.model_type])
    early = [model.get_output_embeddings()(norm(h[0])) for h in output.hidden_states[:-1]]
    logits = torch.stack([*early, output.logits[0]], dim=1).double()
    logs = logits.log_softmax(-1)
    probabilities = logs.exp()
    next_ids = torch.cat([ids[1:], torch.tensor([-1])])
    next_logs = logs[torch.arange(len(ids)), :, next_ids]
    next_logs[-1] = torch.nan
    next_ranks = ranks(logits, next_ids[:, None])[..., 0]
    next_ranks[-1] = 0
    top = logits.argmax(-1)
    held = {
        "top_probabilities": probabilities.sort(-1, descending=True).values[..., :k],
        "entropy_nats": -(probabilities * logs).sum(-1),
        "kl_to_final_nats": (probabilities[:, -1:] * (logs[:, -1:] - logs)).sum(-1),
        "next_log_probability": next_logs,
        "next_rank": next_ranks,
        "target_log_probability": logs[..., list(targets)],
        "target_rank": ranks(logits, torch.tensor([targets] * len(ids))),
        "decided_at": torch.tensor([decided(row) - 1 for row in top.tolist()]),
    }
    return Plain({name: each.numpy() for name, each in held.items()}, top.numpy(), next_ids.numpy())


def ranks(logits: Tensor, wanted: Tensor) -> Tensor:
    """`[token, state, wanted]`, one more than how many logits are larger."""
    found = torch.empty((*logits.shape[:2], wanted.shape[1]), dtype=torch.int64)
    for token, row in enumerate(logits):
        for place, token_id in enumerate(wanted[token].tolist()):
            found[token, :, place] = (row > row[:, [token_id]]).sum(-1) + 1
    return found


def decided(top: Sequence[int]) -> int:
    """The first state from which on all are like the last."""
    return next(n for n in range(len(top)) if set(top[n:]) == {top[-1]})
