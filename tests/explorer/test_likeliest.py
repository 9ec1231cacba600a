"""What a row says of a token is the same wherever it is said."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.explorer.likeliest import Asked, agreeing, reranked
from sdlms.lens.measuring import Lens
from sdlms.models.unembedding import capped, unembedding_input, unembedding_of
from tests.models.tiny_models import random_model

LIKELIEST = np.array([[7, 3, 9], [1, 2, 3]])
SHARES = np.array([[0.5, 0.2, 0.1], [0.4, 0.4, 0.05]], np.float32)


def known(ids: list[list[int]], shares: list[list[float]], ranks: list[list[int]]) -> Asked:
    asked = Asked(np.log(np.array(shares, np.float32)), np.array(ranks, np.int32))
    found = agreeing(LIKELIEST, SHARES, np.array(ids), asked)
    return found._replace(log_probability=np.exp(found.log_probability))


def test_one_of_the_likeliest_has_its_place_and_probability() -> None:
    found = known([[9, 7], [3, 2]], [[0.3, 0.4], [0.06, 0.3]], [[2, 1], [5, 1]])
    np.testing.assert_allclose(found.log_probability, [[0.1, 0.5], [0.05, 0.4]], rtol=1e-6)
    assert found.rank.tolist() == [[3, 1], [3, 2]]


def test_any_other_token_comes_behind_them() -> None:
    found = known([[5], [8]], [[0.3], [0.01]], [[2], [40]])
    np.testing.assert_allclose(found.log_probability, [[0.1], [0.01]], rtol=1e-6)
    # As probable as the last of them, and so of its rank.
    assert found.rank.tolist() == [[3], [40]]


def test_what_is_no_number_stays() -> None:
    found = known([[7], [8]], [[np.nan], [np.nan]], [[0], [0]])
    assert np.isnan(found.log_probability).all()
    assert found.rank.tolist() == [[0], [0]]


@pytest.mark.parametrize("name", ["gemma2", "phi", "opt-projected"])
@torch.no_grad()
def test_ties_of_a_16_bit_model_are_told_apart(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM).bfloat16()
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(40, 3, model.config.hidden_size, generator=generator).bfloat16().float()
    next_ids = torch.randint(0, 50, (40,), generator=generator)
    rows = Lens(model, 10).measure(resid, next_ids)
    found = reranked(model, resid, rows, next_ids.numpy())
    logits = exact(model, resid)
    top = np.take_along_axis(logits, found.top_ids, -1)
    assert (np.diff(top, axis=-1) <= 1e-6).all()
    assert (np.abs(top[..., 0] - logits.max(-1)) < 1e-6).all()
    shares = np.exp(top - rows.log_normalizer[..., None])
    np.testing.assert_allclose(found.top_probabilities, shares, rtol=1e-5)
    is_top = next_ids.numpy()[:, None, None] == found.top_ids
    assert is_top.any()
    assert (found.next_rank[is_top.any(-1)] == np.nonzero(is_top)[-1] + 1).all()
    assert (found.next_rank[~is_top.any(-1)] >= 10).all()


def exact(model: PreTrainedModel, resid: torch.Tensor) -> NDArray[np.float64]:
    """All logits in float64."""
    head = unembedding_of(model)
    inputs = unembedding_input(model, resid).double()
    bias = 0 if head.bias is None else head.bias.double()
    return capped(model, inputs @ head.weight.double().T + bias).numpy()
