"""Weights of a gated model: laid out, moved, loaded, saved, copied, replaced."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.models.gated import How, Learned, gated, learn
from tests.models.gated_models import EVERY_RULE, MASKED, Snapshot, decoded, logits
from tests.models.tiny_models import INPUT_IDS, random_model

LAYING = pytest.mark.parametrize("rule", ["post-norm", "input", "static", "sequence"])
COMPACT = ("static", "sequence")
HOWS = pytest.mark.parametrize("how", [How(), MASKED, How(hold_both=True)])
LEAVE = r"Leave the gated block first$"


def made(name: str = "gpt_neox-parallel") -> tuple[PreTrainedModel, Learned]:
    model = random_model(name, AutoModelForCausalLM)
    return model, learn(model, INPUT_IDS)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def permuted(rule: str, how: How) -> bool:
    return rule in COMPACT and not (how.hold_both or how.execution == "masked")


@LAYING
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_is_trained_after_it_was_gated_in_inference_mode(name: str, rule: str) -> None:
    model, learned = made(name)
    before = Snapshot(model)
    with torch.inference_mode():
        with gated(model, rule, 0.3, learned=learned):
            model(INPUT_IDS)
            decoded(model, INPUT_IDS[:1])
    before.check()
    model(INPUT_IDS, labels=INPUT_IDS).loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    with gated(model, rule, 0.3, learned=learned):
        decoded(model, INPUT_IDS[:1])


@LAYING
def test_a_model_that_was_made_in_inference_mode_is_gated_in_any(rule: str) -> None:
    with torch.inference_mode():
        model, learned = made()
        expected = logits(model)
    with torch.inference_mode(), gated(model, rule, 0.3, learned=learned):
        inside = decoded(model, INPUT_IDS[:1])
    with gated(model, rule, 0.3, learned=learned), torch.no_grad():
        assert torch.equal(decoded(model, INPUT_IDS[:1]), inside)
    assert torch.equal(logits(model), expected)


@LAYING
@HOWS
def test_a_state_dict_is_right_or_refused(rule: str, how: How, tmp_path: Path) -> None:
    model, learned = made()
    expected = values(model)
    with gated(model, rule, 0.3, learned=learned, how=how):
        decoded(model, INPUT_IDS[:1])
        if permuted(rule, how):
            with pytest.raises(ValueError, match=LEAVE):
                model.state_dict()
            with pytest.raises(ValueError, match=LEAVE):
                model.save_pretrained(tmp_path)
        else:
            assert_equal(values(model), expected)
            model.save_pretrained(tmp_path)
            assert_equal(values(type(model).from_pretrained(tmp_path)), expected)
    assert_equal(values(model), expected)


@LAYING
@HOWS
def test_weights_are_neither_loaded_nor_moved_inside(rule: str, how: How) -> None:
    model, learned = made()
    before, expected = Snapshot(model), values(model)
    with gated(model, rule, 0.3, learned=learned, how=how):
        decoded(model, INPUT_IDS[:1])
        mlp = model.gpt_neox.layers[1].mlp
        for call in (
            lambda: model.load_state_dict(expected),
            mlp.half,
            mlp.double,
            lambda: mlp.to("meta"),
            lambda: mlp.to_empty(device="cpu"),
        ):
            with pytest.raises(ValueError, match=LEAVE) as found:
                call()
            assert "\n" not in str(found.value)
        model.to("cpu").float()  # as they are
    before.check()
    model.half().float()
    model.load_state_dict(expected)
    assert_equal(values(model), expected)


@EVERY_RULE
@HOWS
def test_a_deep_copy_is_the_dense_model_or_refused(rule: str, how: How) -> None:
    for name in ("gpt_neox-parallel", "opt"):
        model = random_model(name, AutoModelForCausalLM)
        learned = learn(model, INPUT_IDS, blocks={layer: BLOCK for layer in range(3)})
        dense = logits(model)
        with gated(model, rule, 0.3, learned=learned, how=how) as gates:
            inside = decoded(model, INPUT_IDS[:1])
            if permuted(rule, how):
                with pytest.raises(ValueError, match=LEAVE):
                    copy.deepcopy(model)
                continue
            copied = copy.deepcopy(model)
            gates.reset()
            assert torch.equal(logits(copied), dense)
            assert gates.kept_fraction() != gates.kept_fraction()  # nothing was counted
            if rule != "random":
                assert torch.equal(decoded(model, INPUT_IDS[:1]), inside)
        types = [type(module) for module in model.modules()]
        assert [type(module) for module in copied.modules()] == types


BLOCK = torch.arange(40).numpy() // 5 - 1


@LAYING
def test_a_weight_that_is_replaced_inside_is_told_and_the_others_come_back(rule: str) -> None:
    model, learned = made("llama")
    before = values(model)
    weight = model.model.layers[1].mlp.down_proj.weight
    other = torch.ones_like(weight)
    with pytest.raises(ValueError, match="was replaced while it was gated"):
        with gated(model, rule, 0.3, learned=learned):
            decoded(model, INPUT_IDS[:1])
            weight.data = other
    name = "model.layers.1.mlp.down_proj.weight"
    after = values(model)
    assert torch.equal(after.pop(name), other)
    before.pop(name)
    assert_equal(after, before)
    assert type(model.model.layers[1].mlp.down_proj) is nn.Linear


@LAYING
def test_weights_in_either_order_of_memory_are_gated(rule: str) -> None:
    model, learned = made("llama")
    with gated(model, rule, 0.3, learned=learned):
        expected = decoded(model, INPUT_IDS[:1])
    for layer in model.model.layers:
        for linear in (layer.mlp.up_proj, layer.mlp.down_proj):
            linear.weight.data = linear.weight.data.t().contiguous().t()
    before = Snapshot(model)
    with gated(model, rule, 0.3, learned=learned):
        found = decoded(model, INPUT_IDS[:1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    before.check()


@LAYING
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_inputs_that_are_not_contiguous_are_multiplied(name: str, rule: str) -> None:
    model, learned = made(name)
    mlp = model.base_model.h[0].mlp if name == "gpt2" else model.model.layers[0].mlp
    wide = torch.randn(1, 1, 16, 2, generator=torch.Generator().manual_seed(0))
    x = wide[..., 0]
    assert not x.is_contiguous()
    for how in (How(), How(execution="sparse")):
        with gated(model, rule, 0.3, learned=learned, how=how), torch.no_grad():
            decoded(model, INPUT_IDS[:1])
            assert torch.equal(mlp(x), mlp(x.contiguous()))
