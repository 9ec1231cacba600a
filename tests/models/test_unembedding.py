"""Residuals become the logits that the model itself would give."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_of, blocks_of, n_layers
from sdlms.models.recording import recording
from sdlms.models.unembedding import (
    capped,
    final_norm_of,
    logits_of,
    rescored,
    unembedding_input,
    unembedding_of,
)
from tests.models.tiny_models import CASES, CAUSAL, EVERY_CAUSAL_CASE, INPUT_IDS, random_model

# What becomes of the unembedding's output, where anything does.
CAPPED = {"gemma2": 2.0, "gemma3_text": 2.0}
BIASED = {"gptj", "gptj-n_inner", "phi", "phi-qk_layernorm"}
WITHOUT_FINAL_NORM = {"opt-bare", "opt-projected"}


def causal_model(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


def resid_after(model: PreTrainedModel, layer: int) -> Tensor:
    with recording(model.base_model, [layer], ["resid_post"]) as recorded:
        return recorded.run(INPUT_IDS)["resid_post", layer]


@EVERY_CAUSAL_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_last_residual_gives_the_models_own_logits(name: str, dtype: torch.dtype) -> None:
    model = causal_model(name).to(dtype)
    own = model(INPUT_IDS).logits
    found = logits_of(model, resid_after(model, n_layers(model.config) - 1))
    assert found.shape == (3, 9, 50)
    assert found.dtype == dtype
    assert torch.equal(found, own)


@EVERY_CAUSAL_CASE
@torch.no_grad()
def test_an_earlier_residual_gives_the_logits_of_a_model_that_ends_there(name: str) -> None:
    model = causal_model(name)
    residuals = [resid_after(model, layer) for layer in range(n_layers(model.config))]
    for layer in reversed(range(len(residuals))):
        del blocks_of(model.base_model)[layer + 1 :]
        assert torch.equal(logits_of(model, residuals[layer]), model(INPUT_IDS).logits)


@EVERY_CAUSAL_CASE
@torch.no_grad()
def test_every_part_does_something(name: str) -> None:
    model = causal_model(name)
    resid = resid_after(model, n_layers(model.config) - 1)
    head = unembedding_of(model)
    assert (head.bias is not None) == (name in BIASED)
    assert (final_norm_of(model) is None) == (name in WITHOUT_FINAL_NORM)
    assert final_norm_of(model) is final_norm_of(model.base_model)
    read = unembedding_input(model, resid)
    assert read.shape == (3, 9, head.weight.shape[1])
    if name != "opt-bare":
        assert read.shape != resid.shape or not torch.allclose(read, resid, atol=0.1)
    raw = read @ head.weight.T + (0 if head.bias is None else head.bias)
    cap = CAPPED.get(name)
    expected = raw if cap is None else cap * torch.tanh(raw / cap)
    torch.testing.assert_close(logits_of(model, resid), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(capped(model, raw), expected, rtol=1e-5, atol=1e-5)
    if cap is None:
        assert capped(model, raw) is raw
    else:
        assert raw.abs().max() > cap > expected.abs().max()


def test_the_cases_hold_what_the_table_claims() -> None:
    for field, names in (("logit_cap", CAPPED), ("project_out", ["opt-projected"])):
        claiming = {
            model_type
            for model_type in (str(CASES[name]["model_type"]) for name in CAUSAL)
            if getattr(architecture_of(model_type), field) is not None
        }
        assert claiming == {str(CASES[name]["model_type"]) for name in names}


@torch.no_grad()
def test_leading_axes_are_free() -> None:
    model = causal_model("gemma2")
    resid = resid_after(model, 2)
    whole = logits_of(model, resid)
    for rows in ((0,), (1, slice(2, 5)), (slice(0, 0),), (1, 3)):
        torch.testing.assert_close(logits_of(model, resid[rows]), whole[rows], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_stored_residuals_of_another_dtype_are_taken() -> None:
    model = causal_model("gpt2")
    resid = resid_after(model, 2).bfloat16()
    found = logits_of(model, resid)
    assert found.dtype == torch.float32
    assert torch.equal(found, logits_of(model, resid.float()))


def test_gradients_reach_the_residual() -> None:
    model = causal_model("gemma3_text")
    resid = resid_after(model, 2).requires_grad_()
    logits_of(model, resid).sum().backward()
    assert resid.grad is not None
    assert resid.grad.abs().max() > 0


def test_an_encoder_is_refused() -> None:
    model = causal_model("bert")
    message = "^model_type 'bert' is an encoder: it predicts no next token.*Use a causal model.$"
    for refusing in (unembedding_of, lambda model: logits_of(model, torch.zeros(16))):
        with pytest.raises(UserError, match=message):
            refusing(model)
    assert final_norm_of(model) is None


@EVERY_CAUSAL_CASE
def test_a_base_model_has_no_logits(name: str) -> None:
    model = random_model(name, AutoModel)
    with pytest.raises(ValueError, match="has no unembedding; load AutoModelForCausalLM"):
        logits_of(model, torch.zeros(16))


def test_what_the_table_does_not_describe_is_refused() -> None:
    model = random_model("gemma3_text", AutoModelForCausalLM, {"use_bidirectional_attention": True})
    for refusing in (final_norm_of, unembedding_of, lambda model: capped(model, torch.zeros(50))):
        with pytest.raises(UserError, match="use_bidirectional_attention=True"):
            refusing(model)


def test_the_unembedding_is_the_models_own_module() -> None:
    model = causal_model("gpt_neox-parallel")
    head = unembedding_of(model)
    assert isinstance(head, nn.Linear)
    assert head in list(model.children())


@EVERY_CAUSAL_CASE
@torch.no_grad()
def test_the_largest_logits_of_16_bits_become_exact(name: str) -> None:
    model = causal_model(name).bfloat16()
    resid = resid_after(model, n_layers(model.config) - 1)[0, -1]
    logits = model(INPUT_IDS).logits[0, -1]
    found = rescored(model, resid, logits, 20)
    head = unembedding_of(model)
    exact = unembedding_input(model, resid).double() @ head.weight.double().T
    exact = capped(model, exact if head.bias is None else exact + head.bias.double()).float()
    largest = logits.topk(20).indices
    torch.testing.assert_close(found[largest], exact[largest], atol=1e-6, rtol=1e-5)
    others = torch.ones(len(logits), dtype=torch.bool)
    others[largest] = False
    assert torch.equal(found[others], logits[others].float())
    assert found.dtype == torch.float32
    assert len(rescored(model, resid, logits)) == 50  # fewer than it would take


@torch.no_grad()
def test_logits_of_32_bits_stay() -> None:
    model = causal_model("llama")
    logits = torch.randn(50)
    assert rescored(model, torch.zeros(model.config.hidden_size), logits) is logits
