"""The states are the model's own residual stream."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.lens.residuals import residuals
from sdlms.lens.states import State, states_of
from sdlms.models.architectures import n_layers
from sdlms.models.recording import recording
from sdlms.models.unembedding import logits_of
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, random_model


def causal_model(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


@EVERY_CAUSAL_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_final_state_gives_the_models_own_logits(name: str, dtype: torch.dtype) -> None:
    model = causal_model(name).to(dtype)
    states = states_of(n_layers(model.config), [0], with_mid="attention")
    with residuals(model, states) as stream:
        resid = stream.run(INPUT_IDS)
    assert resid.shape == (3, 9, 4, 16)
    assert resid.dtype == dtype
    assert torch.equal(logits_of(model, resid[:, :, -1]), model(INPUT_IDS).logits)


@EVERY_CAUSAL_CASE
def test_states_are_what_blocks_receive_and_return(name: str) -> None:
    model = causal_model(name)
    layers = range(n_layers(model.config))
    states = states_of(len(layers), layers, with_mid="attention")
    with residuals(model, states) as stream:
        resid = stream.run(INPUT_IDS)
    with recording(model.base_model, layers, ["resid_pre", "attn_out", "resid_post"]) as recorded:
        own = recorded.run(INPUT_IDS)
    for place, (site, layer) in enumerate(states):
        expected = (
            own["resid_pre", layer] + own["attn_out", layer]
            if site == "resid_mid"
            else own[site, layer]
        )
        assert torch.equal(resid[:, :, place], expected)


def test_the_state_after_attention_is_the_input_of_the_mlps_norm() -> None:
    model = causal_model("llama")
    seen = []
    norm: nn.Module = model.base_model.layers[1].post_attention_layernorm
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with residuals(model, [State("resid_mid", 1), State("resid_post", 2)]) as stream:
        resid = stream.run(INPUT_IDS)
    handle.remove()
    assert torch.equal(resid[:, :, 0], seen[0])


def test_a_state_may_be_asked_for_twice_and_by_either_name() -> None:
    model = causal_model("gpt2")
    same = [State("resid_post", 0), State("resid_pre", 1), State("resid_pre", 1)]
    with residuals(model, [*same, State("resid_post", 2)]) as stream:
        resid = stream.run(INPUT_IDS)
    assert torch.equal(resid[:, :, 0], resid[:, :, 1])
    assert torch.equal(resid[:, :, 1], resid[:, :, 2])


def test_the_unembedding_does_not_run_and_no_hook_remains() -> None:
    model = causal_model("gpt_neox-parallel")
    calls = []
    handle = model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    with residuals(model, states_of(3, range(3))) as stream:
        stream.run(INPUT_IDS)
    handle.remove()
    assert not calls
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_has_no_lens_is_refused() -> None:
    with (
        pytest.raises(UserError, match="is an encoder"),
        residuals(causal_model("bert"), states_of(4, [0])),
    ):
        pass
    model = causal_model("gpt2")
    with pytest.raises(ValueError, match="do not exist"), residuals(model, states_of(4, [0])):
        pass
    with (
        pytest.raises(ValueError, match="training mode"),
        residuals(model.train(), states_of(3, [])) as stream,
    ):
        stream.run(INPUT_IDS)
