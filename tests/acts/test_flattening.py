"""Tokens of mask 1, flat: the same as picking them one by one from what Acts realize."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts import Acts, collect, load_acts
from sdlms.acts.flattening import token_counts, token_rows
from sdlms.errors import UserError


def random_acts(seed: int = 0, dtype: torch.dtype = torch.float16) -> Acts:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(5, 2, 7, 3, generator=generator).to(dtype)
    mask = torch.rand(5, 7, generator=generator) < 0.6
    mask[3] = False
    return Acts(tensor, "blsh", mask=mask, layers=[1, 4])


def by_hand(acts: Acts) -> tuple[torch.Tensor, list[int], list[int]]:
    realized = acts.realize()
    mask = realized.mask
    assert mask is not None
    pieces = [realized.tensor[d][:, mask[d]] for d in range(acts.n_documents)]
    offsets = np.cumsum([0, *(piece.shape[1] for piece in pieces)]).tolist()
    positions = [int(s) for d in range(acts.n_documents) for s in mask[d].nonzero()]
    return torch.cat(pieces, dim=1), offsets, positions


def test_rows_counts_and_positions_are_those_of_the_mask() -> None:
    acts = random_acts()
    expected, offsets, positions = by_hand(acts)
    rows = token_rows(acts)
    assert torch.equal(rows.acts, expected)
    assert rows.acts.dtype == torch.float16
    assert rows.offsets.tolist() == offsets
    assert rows.positions.tolist() == positions
    assert token_counts(acts).tolist() == np.diff(offsets).tolist()


def test_documents_come_in_the_order_that_was_asked_for() -> None:
    acts = random_acts().slice_batch([4, 0, 2])
    expected, offsets, _ = by_hand(acts)
    rows = token_rows(acts)
    assert torch.equal(rows.acts, expected)
    assert rows.offsets.tolist() == offsets


def test_a_file_and_a_model_give_the_same_rows(
    tiny_model: Path, tmp_path: Path, cli: Callable[..., int]
) -> None:
    tokens = [list(range(3, 3 + n)) for n in (9, 4, 1, 30, 12)]
    live = collect(str(tiny_model), tokens, layers=[0, 2], site="resid_post")
    live.save(tmp_path / "saved.h5")
    file = load_acts(tmp_path / "saved.h5")
    assert torch.equal(token_rows(live).acts, token_rows(file).acts)
    assert token_rows(file).offsets.tolist() == [0, 9, 13, 14, 44, 56]


def test_what_is_no_number_is_named_by_document_and_layer() -> None:
    tensor = torch.zeros(2, 1, 3, 2)
    tensor[1, 0, 2, 1] = float("inf")
    mask = torch.ones(2, 3)
    acts = Acts(tensor, "blsh", mask=mask, layers=[7], documents=["first", "second"])
    with pytest.raises(UserError, match=r"document second, layer 7, is NaN or infinite"):
        token_rows(acts)


def test_what_is_masked_may_be_anything() -> None:
    tensor = torch.zeros(1, 1, 3, 2)
    tensor[0, 0, 0] = float("nan")
    acts = Acts(tensor, "blsh", mask=torch.tensor([[0, 1, 1]]))
    assert token_rows(acts).acts.shape == (1, 2, 2)


def test_pooled_activations_have_no_tokens() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        token_counts(random_acts().mean_pool())
    with pytest.raises(ValueError, match="pooled"):
        token_rows(random_acts().mean_pool("l"))
