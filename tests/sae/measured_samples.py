"""Dictionaries and held-out rows that the tests of measuring share."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.sae.dictionary import Architecture, Dictionary
from sdlms.sae.evaluation import HeldOut

D_IN, WIDTH = 6, 20
LENGTHS = [4, 0, 9, 1, 3, 12, 2]  # rows of each document
TASKS = ["b", "b", "a", "c", "a", "b", "a"]


def some_dictionary(architecture: Architecture = "standard", seed: int = 0) -> Dictionary:
    """Random, with a latent that never fires and one that always does."""
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    bias = drawn(WIDTH) - 1
    bias[0], bias[1] = -1000, 1000
    tensors = {"W_enc": drawn(D_IN, WIDTH), "W_dec": drawn(WIDTH, D_IN), "b_dec": drawn(D_IN)}
    tensors["W_dec"][1] /= 1000
    if architecture == "gated":
        tensors |= {"b_gate": bias, "b_mag": bias, "r_mag": drawn(WIDTH)}
    else:
        tensors["b_enc"] = bias
    if architecture == "jumprelu":
        tensors["threshold"] = drawn(WIDTH).abs()
    return Dictionary(architecture=architecture, tensors=tensors, k=3 * (architecture == "topk"))


def some_rows(n_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(n_rows, D_IN, generator=torch.Generator().manual_seed(seed)) + 0.5


def some_positions(lengths: list[int]) -> NDArray[np.int64]:
    """The first two tokens of each document, and every other one after them, are left out."""
    pieces = [2 + 2 * np.arange(length) for length in lengths]
    return np.concatenate([np.zeros(0), *pieces]).astype(np.int64)


def some_held_out(
    lengths: list[int] = LENGTHS, tasks: list[str] = TASKS, dtype: torch.dtype = torch.float32
) -> HeldOut:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = some_rows(sum(lengths)).to(dtype)
    return HeldOut(rows, offsets, some_positions(lengths), tasks)


def some_mean() -> Tensor:
    return torch.linspace(0.2, 0.7, D_IN, dtype=torch.float64)
