"""Gradients of a gated model are those of masks, or are refused."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.models.gated import How, gated, learn
from tests.models.gated_models import EVERY_RULE, MASKED
from tests.models.tiny_models import INPUT_IDS, random_model

SPARSE = How(execution="sparse")
COMPACT = ("static", "sequence")
FEW = pytest.mark.parametrize("rule", ["post-norm", "pre-abs", "input"])
REFUSED = "has no gradients here"


def fresh() -> PreTrainedModel:
    return random_model("llama", AutoModelForCausalLM)


def gradients(model: PreTrainedModel, input_ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids).logits.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@FEW
@pytest.mark.parametrize("n_tokens", [1, 5])
@pytest.mark.parametrize("trained", ["all", "mlp", "bias"])
def test_gradients_are_those_of_masks(rule: str, n_tokens: int, trained: str) -> None:
    """One row with gradients is masked: no backend has any."""
    model = random_model("gpt2", AutoModelForCausalLM)
    learned = learn(model, INPUT_IDS)
    if trained != "all":
        model.requires_grad_(False)
        for block in model.base_model.h:
            block.mlp.c_proj.bias.requires_grad_(True)
            block.mlp.requires_grad_(trained == "mlp")
            block.mlp.c_proj.bias.requires_grad_(True)
    n_trained = sum(p.requires_grad for p in model.parameters())
    ids = INPUT_IDS[:1, :n_tokens]
    with gated(model, rule, 0.3, learned=learned, how=MASKED):
        expected = gradients(model, ids)
    with gated(model, rule, 0.3, learned=learned):
        found = gradients(model, ids)
    assert len(found) == len(expected) == n_trained
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
        assert gradient.abs().sum() > 0


@EVERY_RULE
def test_execution_without_gradients_refuses_them(rule: str) -> None:
    model = random_model("gpt_neox-parallel", AutoModelForCausalLM)
    blocks = {layer: torch.arange(40).numpy() // 5 for layer in range(3)}
    learned = learn(model, INPUT_IDS, blocks=blocks)
    hows = [SPARSE, How(execution="sparse", hold_both=True)]
    if rule in COMPACT:
        hows += [How(), How(hold_both=True)]
    for how in hows:
        with gated(model, rule, 0.3, learned=learned, how=how):
            for ids in (INPUT_IDS, INPUT_IDS[:1, :1]):
                with pytest.raises(ValueError, match=REFUSED) as found:
                    model(ids)
                assert "\n" not in str(found.value)
                with torch.no_grad():
                    model(ids)
            model.requires_grad_(False)
            model(INPUT_IDS)
            embeddings = torch.randn(1, 3, 16, requires_grad=True)
            with pytest.raises(ValueError, match=REFUSED):
                model(inputs_embeds=embeddings)
            model.requires_grad_(True)


def test_a_graph_from_inside_is_not_followed_over_weights_laid_otherwise() -> None:
    """Autograd itself tells: the memory that it saved holds something else by then."""
    model = fresh()
    with gated(model, "post-norm", 0.5):
        loss = model(INPUT_IDS[:1, :1]).logits.sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
