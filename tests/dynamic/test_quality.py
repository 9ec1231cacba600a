"""Losses of a gated model: what a rule costs, and exactly nothing where nothing is gated."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.dynamic.estimates import quality_of
from sdlms.dynamic.losses import document_losses, losses_of_record, losses_of_windows
from sdlms.dynamic.quality import Gate, measure_layer, measure_quality
from sdlms.dynamic.resampling import resampled
from sdlms.dynamic.windows import Drawn, WindowSettings
from sdlms.errors import UserError
from sdlms.models.architectures import n_layers
from sdlms.models.gated import How, Learned, gated, learn
from sdlms.models.gating.rules import RULES
from sdlms.models.loading import find_model, load_causal_model
from sdlms.models.replacing import replacing
from sdlms.runs.parts import Part
from tests.dynamic.texts import drawn_text, random_windows
from tests.models.tiny_models import random_model

BUDGET = 256
SETTINGS = WindowSettings(window=64, stride=32, max_tokens=600, calibration_tokens=512)


def nothing(budget: int) -> None:
    raise AssertionError(budget)


def quality(model: PreTrainedModel, gate: Gate, drawn: Drawn) -> Part:
    return measure_quality(model, gate, drawn.windows, BUDGET, nothing)


def perplexity(part: Part) -> float:
    return math.exp(sum(part["sums"]) / sum(part["counts"]))


@pytest.fixture(scope="module")
def small() -> PreTrainedModel:
    return load_causal_model(find_model("sdlms-small", None), torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return drawn_text(SETTINGS)


@pytest.fixture(scope="module")
def learned(small: PreTrainedModel, drawn: Drawn) -> Learned:
    width = small.config.intermediate_size
    blocks = {layer: np.arange(width) // 8 for layer in range(n_layers(small.config))}
    return learn(small, torch.from_numpy(drawn.calibration), blocks=blocks)


@pytest.fixture(scope="module")
def dense(small: PreTrainedModel, drawn: Drawn) -> Part:
    return quality(small, Gate("post-norm", 1.0), drawn)


def test_the_dense_model_is_the_model_itself(
    small: PreTrainedModel, drawn: Drawn, dense: Part
) -> None:
    losses = losses_of_windows(small, drawn.windows, BUDGET, nothing)
    plain = document_losses(losses, drawn.windows)
    assert dense == {**plain.record(), "kept_fraction": 1.0}


@pytest.mark.parametrize("rule", RULES)
def test_keep_1_costs_exactly_nothing(
    small: PreTrainedModel, drawn: Drawn, learned: Learned, dense: Part, rule: str
) -> None:
    part = quality(small, Gate(rule, 1.0, learned), drawn)
    assert part == dense
    one, other = (resampled([losses_of_record(part)], 0) for part in (dense, part))
    assert quality_of(one, other, None).delta[:3] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("rule", RULES)
def test_less_is_kept_at_a_cost(
    small: PreTrainedModel, drawn: Drawn, learned: Learned, dense: Part, rule: str
) -> None:
    before = [parameter.clone() for parameter in small.parameters()]
    part = quality(small, Gate(rule, 0.3, learned), drawn)
    assert part["ids"] == dense["ids"] and part["counts"] == dense["counts"]
    assert part["kept_fraction"] == pytest.approx(0.3, abs=0.08)
    assert perplexity(part) > perplexity(dense)
    assert all(torch.equal(one, two) for one, two in zip(before, small.parameters(), strict=True))
    assert quality(small, Gate(rule, 0.3, learned), drawn) == part


def test_the_cost_is_that_of_zeros_in_the_place_of_small_neurons() -> None:
    """An independent way to the same: neurons are replaced where the model has them."""
    model, windows = random_model("llama", AutoModelForCausalLM), random_windows()

    def largest(acts: Tensor) -> Tensor:
        kept = acts.abs().topk(6, dim=-1).indices
        return torch.zeros_like(acts).scatter(-1, kept, acts.gather(-1, kept))

    with replacing(model, 1, "mlp_act", largest):
        losses = losses_of_windows(model, windows, 36, nothing)
    expected = document_losses(losses, windows)
    gate = Gate("post-abs", 0.25, None, How(layers=(1,)))
    part = measure_quality(model, gate, windows, 36, nothing)
    np.testing.assert_allclose(part["sums"], expected.sums, rtol=1e-6)
    assert part["kept_fraction"] == 0.25


def test_a_forced_keep_1_shows_the_error_of_the_kernel(
    small: PreTrainedModel, drawn: Drawn, dense: Part
) -> None:
    gate = Gate("post-norm", 1.0, None, How(backend="torch", force_at_one=True))
    windows = drawn.windows._replace(
        **{name: getattr(drawn.windows, name)[:1] for name in ("ids", "scored", "document", "task")}
    )
    part = measure_quality(small, gate, windows, BUDGET, nothing)
    plain = measure_quality(small, Gate("post-norm", 1.0), windows, BUDGET, nothing)
    assert part["sums"] != plain["sums"]
    np.testing.assert_allclose(part["sums"], plain["sums"], rtol=1e-4)
    assert part["kept_fraction"] == 1.0


def test_the_context_of_a_window_is_the_prompt_of_a_sequence(
    small: PreTrainedModel, drawn: Drawn, dense: Part
) -> None:
    windows = drawn.windows
    part = quality(small, Gate("sequence", 0.1), drawn)
    how = How(execution="masked", prompt_tokens=windows.first)
    with gated(small, "sequence", 0.1, how=how):
        losses = losses_of_windows(small, windows, BUDGET, nothing)
    assert part["sums"] == document_losses(losses, windows).sums.tolist()
    first = losses[:, 0] - losses_of_windows(small, windows, BUDGET, nothing)[:, 0]
    assert not first.any()  # predicted by the last token of the prompt, which is dense


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "random"])  # draws per call
@pytest.mark.parametrize("layer", [0, 2])
def test_one_layer_is_measured_as_if_the_whole_model_ran(
    small: PreTrainedModel, drawn: Drawn, learned: Learned, rule: str, layer: int
) -> None:
    gate = Gate(rule, 1.0, learned, How(layers=(layer,)))
    keeps = (0.1, 0.5)
    parts = measure_layer(small, gate, keeps, drawn.windows, BUDGET, nothing)
    for keep, part in zip(keeps, parts, strict=True):
        alone = quality(small, gate._replace(keep=keep), drawn)
        assert part["sums"] == alone["sums"]
        assert part["kept_fraction"] == pytest.approx(alone["kept_fraction"], rel=1e-6)


@pytest.mark.parametrize("name", ["opt", "gemma2", "gpt2"])
def test_one_layer_of_other_families(name: str) -> None:
    model, windows = random_model(name, AutoModelForCausalLM), random_windows()
    gate = Gate("post-norm", 0.25, None, How(layers=(1,)))
    (part,) = measure_layer(model, gate, [0.25], windows, 36, nothing)
    assert part == measure_quality(model, gate, windows, 36, nothing)


def test_when_memory_runs_out_nothing_is_counted_twice() -> None:
    model, windows, told = random_model("llama", AutoModelForCausalLM), random_windows(), []
    gate, ran = Gate("threshold", 0.5, None, How(layers=(1,))), []
    learned = learn(model, torch.from_numpy(windows.ids))
    gate = gate._replace(learned=learned)
    expected = measure_layer(model, gate, [0.3, 0.6], windows, 24, nothing)

    def runs_out(module: object, args: tuple[Tensor, ...]) -> None:
        ran.append(len(args[0]))
        if len(ran) == 2:  # after the first state of the first batch
            raise MemoryError

    handle = model.lm_head.register_forward_pre_hook(runs_out)
    found = measure_layer(model, gate, [0.3, 0.6], windows, 48, told.append)
    handle.remove()
    assert told == [24]
    for one, other in zip(found, expected, strict=True):
        assert one["kept_fraction"] == other["kept_fraction"]
        np.testing.assert_allclose(one["sums"], other["sums"], rtol=1e-6)


def test_what_is_no_gate_of_one_layer_is_refused(small: PreTrainedModel, drawn: Drawn) -> None:
    gate = Gate("post-norm", 1.0, None, How(layers=(1,)))
    for how, keeps in ((How(), [0.5]), (How(layers=(0, 1)), [0.5]), (gate.how, [0.5, 1.0])):
        with pytest.raises(ValueError, match="need one layer and keeps below 1"):
            measure_layer(small, gate._replace(how=how), keeps, drawn.windows, BUDGET, nothing)
    with pytest.raises(ValueError, match="need one layer"):
        measure_layer(small, gate, [], drawn.windows, BUDGET, nothing)


def test_what_the_rule_refuses_is_refused(small: PreTrainedModel, drawn: Drawn) -> None:
    for gate in (Gate("post-norm", 0.0), Gate("post", 0.5), Gate("threshold", 0.5)):
        with pytest.raises(UserError):
            quality(small, gate, drawn)
