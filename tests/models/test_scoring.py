"""Losses are those of the model's own logits."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models import scoring
from sdlms.models.architectures import n_layers
from sdlms.models.recording import recording
from sdlms.models.scoring import losses_of
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, LENGTHS, random_model


@torch.no_grad()
def own_losses(model: PreTrainedModel) -> Tensor:
    logits = model(INPUT_IDS).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.mT, INPUT_IDS[:, 1:], reduction="none")


def token_losses(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Of every next token, by the residual behind the last block, `[batch, token - 1]`."""
    layer = n_layers(model.config) - 1
    with recording(model.base_model, [layer], ["resid_post"]) as recorded:
        resid = recorded.run(input_ids)["resid_post", layer]
    targets = input_ids[:, 1:]
    losses = losses_of(model, resid[:, :-1].flatten(0, 1), targets.flatten())
    return losses.view(targets.shape)


@EVERY_CAUSAL_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_the_models_own(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(name, AutoModelForCausalLM).to(dtype)
    expected = own_losses(model)
    found = token_losses(model, INPUT_IDS)
    assert found.shape == (3, 8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if dtype == torch.float32:
        with torch.no_grad():
            loss = model(INPUT_IDS, labels=INPUT_IDS).loss
        torch.testing.assert_close(found.mean(), loss, rtol=1e-5, atol=1e-5)
    monkeypatch.setitem(scoring.LOGITS_AT_ONCE, "cpu", 0)
    monkeypatch.setattr(scoring, "LEAST_ROWS", 7)
    torch.testing.assert_close(token_losses(model, INPUT_IDS), found, rtol=1e-5, atol=1e-5)


def test_padding_to_the_right_changes_nothing() -> None:
    model = random_model("gemma2", AutoModelForCausalLM)
    padded = INPUT_IDS.clone()
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = padded[row, length - 1]
    whole, found = token_losses(model, INPUT_IDS), token_losses(model, padded)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(found[row, : length - 1], whole[row, : length - 1])


def test_logits_of_all_rows_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("opt-projected", AutoModelForCausalLM)
    sizes = []
    handle = model.lm_head.register_forward_hook(
        lambda module, args, output: sizes.append(list(output.shape))
    )
    resid, targets = torch.randn(2000, 16), torch.randint(0, 50, (2000,))
    assert losses_of(model, resid, targets).shape == (2000,)
    monkeypatch.setitem(scoring.LOGITS_AT_ONCE, "cpu", 50 * 900)
    losses_of(model, resid, targets)
    monkeypatch.setitem(scoring.LOGITS_AT_ONCE, "cpu", 50)
    losses_of(model, resid, targets)
    handle.remove()
    least = [[128, 50]] * 15 + [[80, 50]]
    assert sizes == [[2000, 50], [900, 50], [900, 50], [200, 50], *least]


def test_nothing_to_predict_is_nothing() -> None:
    model = random_model("gpt2", AutoModelForCausalLM)
    assert losses_of(model, torch.zeros(0, 16), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert token_losses(model, INPUT_IDS[:, :1]).shape == (3, 0)


def test_a_uniform_model_loses_the_entropy_of_its_vocabulary() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    nn.init.zeros_(model.lm_head.weight)
    expected = torch.full((3, 8), 50.0).log()
    torch.testing.assert_close(token_losses(model, INPUT_IDS), expected)


def test_encoders_and_base_models_are_refused() -> None:
    with pytest.raises(UserError, match="is an encoder: it predicts no next token"):
        token_losses(random_model("bert", AutoModelForCausalLM), INPUT_IDS)
    with pytest.raises(ValueError, match="has no unembedding"):
        token_losses(random_model("gpt2"), INPUT_IDS)
