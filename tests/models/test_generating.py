"""Decoding with a KV cache: logits and states are those of one forward over the whole text."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import n_layers
from sdlms.models.generating import Decoder
from sdlms.models.recording import recording
from sdlms.models.unembedding import logits_of
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, random_model

IDS = INPUT_IDS[0].tolist()


def causal(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


@torch.no_grad()
def plain_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def plain_states(model: PreTrainedModel, ids: list[int]) -> Tensor:
    layers = range(n_layers(model.config))
    with recording(model.base_model, layers, ["resid_pre", "resid_post"]) as recorded:
        sites = recorded.run(torch.tensor([ids]))
    states = [sites["resid_pre", 0], *(sites["resid_post", layer] for layer in layers)]
    return torch.stack(states, dim=2)[0]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest value: Gemma's residuals are in the tens."""
    assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@EVERY_CAUSAL_CASE
@pytest.mark.parametrize("extensions", [(5, 1, 1, 1, 1), (3, 6), (2, 2, 2, 2, 1)])
def test_steps_are_one_forward(name: str, extensions: tuple[int, ...]) -> None:
    model = causal(name)
    logits, states = plain_logits(model, IDS), plain_states(model, IDS)
    decoder = Decoder(model)
    for n_new in extensions:
        first = decoder.n_tokens
        step = decoder.extend(IDS[first : first + n_new])
        assert_near(step.logits, logits[first + n_new - 1])
        assert_near(step.states, states[first : first + n_new])
        assert decoder.ids == IDS[: first + n_new]


@EVERY_CAUSAL_CASE
def test_the_lens_of_the_last_state_is_the_prediction(name: str) -> None:
    model = causal(name)
    decoder = Decoder(model)
    decoder.extend(IDS[:5])
    for token_id in IDS[5:]:
        step = decoder.extend([token_id])
        assert_near(logits_of(model, step.states[:, -1])[0], step.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_keep_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    step = Decoder(causal("llama").to(dtype)).extend(IDS)
    assert (step.logits.dtype, step.states.dtype) == (torch.float32, dtype)


def test_logits_are_made_for_the_last_token_only() -> None:
    model = causal("gpt2")
    shapes = []
    model.lm_head.register_forward_hook(lambda _, __, logits: shapes.append(tuple(logits.shape)))
    Decoder(model).extend(IDS)
    assert shapes == [(1, 1, 50)]


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_failed_forward_leaves_no_hook_and_no_half_written_text() -> None:
    model = causal("llama")
    decoder = Decoder(model)
    first = decoder.extend(IDS[:4])
    with pytest.raises(IndexError):
        decoder.extend([10_000])
    assert (n_hooks(model), decoder.ids) == (0, [])
    assert torch.equal(decoder.extend(IDS[:4]).logits, first.logits)
    assert n_hooks(model) == 0


def test_what_is_held_serves_prompts_that_begin_with_it() -> None:
    decoder = Decoder(causal("gpt2"))
    decoder.extend(IDS[:4])
    assert decoder.missing(IDS) == IDS[4:]
    assert decoder.ids == IDS[:4]
    other = [IDS[0] + 1, *IDS[1:]]
    assert decoder.missing(other) == other
    assert decoder.ids == []
    decoder.extend(IDS)
    assert decoder.missing(IDS) == IDS  # the logits behind it are gone


def test_refuses_what_it_cannot_decode() -> None:
    with pytest.raises(UserError, match="encoder"):
        Decoder(random_model("bert"))
    with pytest.raises(ValueError, match="training mode"):
        Decoder(causal("gpt2").train())
    with pytest.raises(ValueError, match="no ids"):
        Decoder(causal("gpt2")).extend([])
