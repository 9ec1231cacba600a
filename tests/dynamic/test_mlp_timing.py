import time

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sdlms.dynamic.decoding import Clock, Text
from sdlms.dynamic.mlp_timing import Mlp, mlps_of, time_mlps
from sdlms.models.architectures import architecture_of, blocks_of, n_layers
from tests.models.tiny_models import CAUSAL, INPUT_IDS, random_model

TEXT = Text(prompt=INPUT_IDS[:1, :6], decoded=INPUT_IDS[0, 6:])


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_each_mlp_gives_what_it_gave_for_the_last_token(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM)
    mlps = mlps_of(model, TEXT)
    down = architecture_of(model.config.model_type).down_projection
    expected: list[Tensor] = []
    for block in blocks_of(model.base_model):
        block.get_submodule(down).register_forward_hook(
            lambda module, args, output: expected.append(output.flatten(0, -2)[-1])
        )
    model(INPUT_IDS[:1])
    whole_text = list(expected)
    assert len(mlps) == len(whole_text) == n_layers(model.config)
    for mlp, output in zip(mlps, whole_text, strict=True):
        assert mlp.hidden.numel() == mlp.hidden.shape[-1]
        torch.testing.assert_close(mlp.run(mlp.hidden).flatten(), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt_neox-parallel", "opt", "llama"])
@torch.no_grad()
def test_modules_that_take_their_places_are_called(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM)
    mlps = mlps_of(model, TEXT)
    down = architecture_of(model.config.model_type).down_projection
    for block in blocks_of(model.base_model):
        parent, _, child = down.rpartition(".")
        setattr(block.get_submodule(parent), child, nn.Identity())
    # Without the down projection, the neurons come out.
    assert all(mlp.run(mlp.hidden).shape[-1] in (24, 40) for mlp in mlps)


def test_no_hook_is_left() -> None:
    model = random_model("opt", AutoModelForCausalLM)
    mlps_of(model, TEXT)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_all_mlps_run_in_turn_and_take_their_time() -> None:
    called: list[int] = []

    def run(hidden: Tensor) -> Tensor:
        called.append(int(hidden))
        time.sleep(0.01)
        return hidden

    mlps = [Mlp(run, torch.tensor(layer)) for layer in range(3)]
    assert time_mlps(mlps, Clock(torch.device("cpu"))) >= 0.03
    assert called == [0, 1, 2]
