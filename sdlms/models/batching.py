"""Batches by a token budget, documents of like length together; halved when memory runs out."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.errors import UserError

Result = TypeVar("Result")

# Tokens in a batch, padding included. On a CPU small batches of like length win (the activations
# of one layer stay in the cache); a GPU wants enough work per kernel; more only pads.
# On CUDA it is the most: what the memory allows is measured (`calibration`).
DEFAULT_BUDGET = {"cpu": 2048, "mps": 4096, "cuda": 16384}


def longest_first(lengths: NDArray[np.int64]) -> list[int]:
    """Documents that have tokens, longest first, so that memory peaks at the start."""
    order = np.argsort(-lengths, kind="stable")
    return [int(document) for document in order if lengths[document] > 0]


def token_blocks(
    order: Sequence[int], lengths: NDArray[np.int64], block_tokens: int
) -> list[list[int]]:
    """Cut an order of documents into blocks of about `block_tokens` real tokens.

    A run is checkpointed after each block; the cut depends on nothing but the documents.
    """
    blocks: list[list[int]] = []
    filled = block_tokens
    for document in order:
        if filled >= block_tokens:
            blocks.append([])
            filled = 0
        blocks[-1].append(document)
        filled += int(lengths[document])
    return blocks


def take_batch(order: Sequence[int], lengths: NDArray[np.int64], budget: int) -> list[int]:
    """The longest head of `order` that stays within the budget when padded; at least one."""
    longest = 0
    for n_taken, document in enumerate(order):
        longest = max(longest, int(lengths[document]))
        if n_taken and longest * (n_taken + 1) > budget:
            return list(order[:n_taken])
    return list(order)


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an allocation failed, on an accelerator or in the machine's own memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text or "out of memory" in text


def run_batches(
    order: Sequence[int],
    lengths: NDArray[np.int64],
    budget: int,
    forward: Callable[[list[int]], Result],
    on_halved: Callable[[int], None],
) -> Iterator[tuple[list[int], Result, int]]:
    """Run one batch after another; when memory runs out, halve the budget and repeat.

    Args:
        order: documents.
        lengths: `[document]` tokens of every document.
        budget: tokens in a batch, padding included.
        forward: computes one batch; only its own failures count as running out of memory.
        on_halved: told the new budget, each time.

    Yields:
        Documents of the batch, what `forward` returned, and the budget in force.

    Raises:
        UserError: a single document does not fit.
    """
    rest = list(order)
    while rest:
        batch = take_batch(rest, lengths, budget)
        try:
            result = forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            result = None
        if result is None:
            # Outside the handler: its traceback would keep the tensors that filled the memory.
            budget = _halved(batch, lengths, budget)
            on_halved(budget)
            continue
        yield batch, result, budget
        del result
        rest = rest[len(batch) :]


def _halved(batch: list[int], lengths: NDArray[np.int64], budget: int) -> int:
    """Free what can be freed and halve the budget below the batch that failed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        raise UserError(
            f"out of memory on a single document of {int(lengths[batch[0]])} tokens. Use a "
            "smaller model or --dtype bfloat16, or shorten the documents."
        )
    padded = len(batch) * int(max(lengths[document] for document in batch))
    return max(min(budget, padded) // 2, 1)
