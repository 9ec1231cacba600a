"""The loss of a model, document by document."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from family import CONTEXT
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

BATCH = 16
END = 0


@dataclass(frozen=True)
class Losses:
    """Cross-entropies of documents.

    Attributes:
        nats: `[document]` summed over its tokens.
        n_tokens: `[document]`.
    """

    nats: NDArray[np.float64]
    n_tokens: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Nats per token over all tokens."""
        return float(self.nats.sum() / self.n_tokens.sum()) if len(self.nats) else float("nan")

    def only(self, chosen: NDArray[np.bool_]) -> "Losses":
        """The chosen documents."""
        return Losses(self.nats[chosen], self.n_tokens[chosen])


def batches(
    tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Iterator[tuple[list[int], Tensor]]:
    """Documents of like length: their numbers, and `[document, token]` ids.

    Each begins with the end-of-text token and is right-padded with it; what exceeds the context is
    cut off. No document holds that token, so that `ids != END` are exactly its own tokens.
    """
    encoded = tokenizer(texts)["input_ids"]
    order = sorted(range(len(texts)), key=lambda number: len(encoded[number]))
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        rows = [torch.tensor([END, *encoded[number]][:CONTEXT]) for number in numbers]
        yield numbers, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=END)


@torch.no_grad()
def token_losses(model: GPTNeoXForCausalLM, ids: Tensor) -> Tensor:
    """Cross-entropy of each token but the first, `[document, token - 1]`; 0 where padded."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1) * (ids[:, 1:] != END)


def losses_of(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Losses:
    """The losses of all documents, in their order."""
    nats, n_tokens = np.zeros(len(texts)), np.zeros(len(texts))
    for numbers, ids in batches(tokenizer, texts):
        nats[numbers] = token_losses(model, ids).double().sum(1).numpy()
        n_tokens[numbers] = (ids[:, 1:] != END).sum(1).numpy()
    return Losses(nats, n_tokens)
