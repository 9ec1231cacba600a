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
from sdlms.dynamic.settings import LEAST_PROMPT, check_prompt
from sdlms.dynamic.windows import Drawn, WindowSettings, head
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
    kept = {"kept_fraction": 1.0, "kept_by_task": [1.0, 1.0]}
    assert dense == {**plain.record(), **kept}


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
    part = quality(small, Gate(rule, 0.1, learned), drawn)
    assert part["ids"] == dense["ids"] and part["counts"] == dense["counts"]
    assert part["kept_fraction"] == pytest.approx(0.1, abs=0.04)
    assert perplexity(part) > perplexity(dense)
    assert all(torch.equal(one, two) for one, two in zip(before, small.parameters(), strict=True))
    assert quality(small, Gate(rule, 0.1, learned), drawn) == part


@pytest.mark.parametrize("rule", ["threshold", "top-p"])
def test_tasks_keep_what_their_own_tokens_keep(
    small: PreTrainedModel, drawn: Drawn, learned: Learned, rule: str
) -> None:
    part = quality(small, Gate(rule, 0.3, learned), drawn)
    with gated(small, rule, 0.3, learned=learned, how=How(execution="masked")) as gates:
        losses_of_windows(small, drawn.windows, BUDGET, nothing)
        assert part["kept_fraction"] == pytest.approx(gates.kept_fraction(), rel=1e-6)
        for task, kept in enumerate(part["kept_by_task"]):
            gates.reset()
            ids = torch.from_numpy(drawn.windows.ids[drawn.windows.task == task])
            with torch.no_grad():
                small.base_model(ids)
            assert kept == pytest.approx(gates.kept_fraction(), rel=1e-6)
    assert abs(np.subtract(*part["kept_by_task"])) > 1e-3
    n_windows = np.bincount(drawn.windows.task)
    mean = np.average(part["kept_by_task"], weights=n_windows)
    assert part["kept_fraction"] == pytest.approx(mean)


def test_tasks_of_more_text_weigh_more() -> None:
    windows = random_windows()  # three and four
    model = random_model("llama", AutoModelForCausalLM)
    learned = learn(model, torch.from_numpy(windows.ids))
    part = measure_quality(model, Gate("threshold", 0.5, learned), windows, 36, nothing)
    first, second = part["kept_by_task"]
    assert first != second
    assert part["kept_fraction"] == pytest.approx((3 * first + 4 * second) / 7)


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
    windows = head(drawn.windows, 1)
    part = measure_quality(small, gate, windows, BUDGET, nothing)
    plain = measure_quality(small, Gate("post-norm", 1.0), windows, BUDGET, nothing)
    assert part["sums"] != plain["sums"]
    np.testing.assert_allclose(part["sums"], plain["sums"], rtol=1e-4)
    assert part["kept_fraction"] == 1.0


def test_the_context_of_a_window_is_the_prompt_of_a_sequence(
    small: PreTrainedModel, drawn: Drawn
) -> None:
    """But for its last token, which predicts the first that is scored."""
    windows = drawn.windows
    part = quality(small, Gate("sequence", 0.1), drawn)
    how = How(execution="masked", prompt_tokens=windows.first - 1)
    with gated(small, "sequence", 0.1, how=how):
        losses = losses_of_windows(small, windows, BUDGET, nothing)
    np.testing.assert_allclose(part["sums"], document_losses(losses, windows).sums, rtol=1e-6)


def test_no_scored_token_of_a_sequence_is_predicted_by_the_dense_model(
    small: PreTrainedModel,
) -> None:
    """With the shortest prompt, and one scored token in each window, which follows it."""
    window = LEAST_PROMPT + 2
    settings = WindowSettings(window, stride=1, max_tokens=20, calibration_tokens=0)
    check_prompt(("sequence",), window, 1)
    drawn = drawn_text(settings)
    dense = quality(small, Gate("post-norm", 1.0), drawn)
    part = quality(small, Gate("sequence", 0.1), drawn)
    assert all(one != other for one, other in zip(part["sums"], dense["sums"], strict=True))
    assert part["kept_fraction"] == pytest.approx(0.1, abs=0.005)
    how = How(execution="masked", prompt_tokens=window - 2)
    with gated(small, "sequence", 0.1, how=how):
        own = losses_of_windows(small, drawn.windows, BUDGET, nothing)
    before = losses_of_windows(small, drawn.windows, BUDGET, nothing)
    assert (own != before)[drawn.windows.scored].all()


@pytest.mark.parametrize("rule", RULES)
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
    whole = measure_quality(model, gate, windows, 36, nothing)
    assert whole.pop("kept_by_task") == [0.25, 0.25]
    assert part == whole


def test_random_sets_of_one_layer_do_not_depend_on_batches_and_do_not_come_again() -> None:
    model, windows = random_model("llama", AutoModelForCausalLM), random_windows()
    n_tokens, parts, sets = windows.ids.size, [], []
    for budget in (12, 36, 10**6):
        masks: list[Tensor] = []
        how = How(layers=(1,), on_mask=lambda _, mask, own=masks: own.append(mask.flatten(0, 1)))
        gate = Gate("random", 1.0, None, how)
        parts.append(measure_layer(model, gate, [0.3, 0.6], windows, budget, nothing))
        assert len(masks) % 2 == 0 and sum(map(len, masks)) == 2 * n_tokens
        for number in (0, 1):
            sets.append([tuple(row) for mask in masks[number::2] for row in mask.tolist()])
            # Of 24 neurons 7 or 14: two tokens of 84 have one set once in a hundred times.
            assert len(set(sets[-1])) == n_tokens
    assert sets[0] == sets[2] == sets[4] and sets[1] == sets[3] == sets[5]
    for keep, of_budgets in zip((0.3, 0.6), zip(*parts, strict=True), strict=True):
        alone = measure_quality(
            model, Gate("random", keep, None, How(layers=(1,))), windows, 36, nothing
        )
        for part in of_budgets:
            np.testing.assert_allclose(part["sums"], alone["sums"], rtol=1e-6)


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
    undealt = learn(small, torch.from_numpy(drawn.calibration[:1]), rules=("static", "top-p"))
    for gate, message in (
        (Gate("post-norm", 0.0), "keep must be above 0"),
        (Gate("post", 0.5), "there is no rule 'post'"),
        (Gate("threshold", 0.5), "needs a calibration sample"),
        (Gate("input", 0.5, undealt), "rule 'input' was not among those that were learned"),
    ):
        with pytest.raises(UserError, match=message):
            quality(small, gate, drawn)
