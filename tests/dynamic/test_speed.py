import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.dynamic import speed
from sdlms.dynamic.decoding import Text
from sdlms.dynamic.gains import summary_of
from sdlms.dynamic.speed import SpeedSettings, check_same, measure_speed, rotated
from sdlms.errors import UserError
from sdlms.models.gated import Gates, How, Learned, gated, learn
from sdlms.models.gating.rules import RULES
from sdlms.models.loading import find_model, load_causal_model
from tests.models.tiny_models import INPUT_IDS, random_model

SETTINGS = SpeedSettings(
    text=Text(prompt=INPUT_IDS[:1, :6], decoded=INPUT_IDS[0, 6:]),
    rounds=3,
    warmups=1,
    mlp_passes=2,
)
KEEPS = (0.25, 0.5, 1.0)
NAMES = ["gpt_neox-parallel", "llama", "gemma2", "gpt2", "opt"]


def causal(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


def measured(name: str, rule: str, keeps: tuple[float, ...] = KEEPS) -> dict[str, Any]:
    model = causal(name)
    return measure_speed(model, rule, keeps, learn(model, INPUT_IDS), "torch", SETTINGS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["post-norm", "input", "sequence", "static", "random"])
def test_every_configuration_has_every_round(name: str, rule: str) -> None:
    found = measured(name, rule)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["configurations"]) == ["dense", "forced", "0.25", "0.5"]
    for timings in found["configurations"].values():
        assert len(timings["prefill"]) == 3
        assert [len(tokens) for tokens in timings["decode"]] == [3, 3, 3]
        assert [len(passes) for passes in timings["mlp"]] == [2, 2, 2]
        seconds = [timings["prefill"], *timings["decode"], *timings["mlp"]]
        assert all(second > 0 for part in seconds for second in part)
    for summary in summary_of(found).values():
        assert summary.decode.tokens_per_sec >= summary.decode.tokens_per_sec_p10 > 0


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith("blocks")])
@torch.no_grad()
def test_kept_fractions_are_those_of_the_decoded_tokens(rule: str) -> None:
    model = causal("gpt_neox-parallel")
    learned = learn(model, INPUT_IDS)
    found = measure_speed(model, rule, KEEPS, learned, "torch", SETTINGS)
    kept = {name: timings["kept"] for name, timings in found["configurations"].items()}
    assert kept["dense"] == [1.0] * 3
    assert kept["forced"] == pytest.approx([1.0] * 3)
    for keep in (0.25, 0.5):
        how = How(backend="torch")
        with gated(model, rule, keep, learned=learned, how=how) as gates, torch.no_grad():
            cache = model(SETTINGS.text.prompt, use_cache=True).past_key_values
            gates.reset()
            for token_id in SETTINGS.text.decoded:
                cache = model(token_id.view(1, 1), past_key_values=cache).past_key_values
            expected = gates.kept_fraction()
        assert kept[f"{keep:g}"] == pytest.approx([expected] * 3)


def test_the_model_is_as_it_was() -> None:
    model = causal("gpt_neox-parallel")
    before = [(name, id(module)) for name, module in model.named_modules()]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    measure_speed(model, "post-norm", KEEPS, None, "torch", SETTINGS)
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_the_order_rotates() -> None:
    names = ["dense", "forced", "0.3"]
    orders = [list(rotated(names, number)) for number in range(-2, 4)]
    assert orders[2:5] == [names, ["forced", "0.3", "dense"], ["0.3", "dense", "forced"]]
    for number in range(3):
        # In as many rounds as there are configurations each stands once in every place.
        assert {order[number] for order in orders[2:5]} == set(names)


def test_rounds_go_through_all_configurations_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal("gpt_neox-parallel")
    order: list[str] = []
    measure = speed._Rounds.measure

    def note(rounds: speed._Rounds, name: str, timings: speed.Timings) -> None:
        order.append(name)
        measure(rounds, name, timings)

    monkeypatch.setattr(speed._Rounds, "measure", note)
    measure_speed(model, "post-norm", (0.5,), None, "torch", SETTINGS)
    rounds = [order[first : first + 3] for first in range(0, len(order), 3)]
    assert len(rounds) == 1 + 3
    assert all(Counter(names) == Counter(["dense", "forced", "0.5"]) for names in rounds)
    assert rounds[1:] == [
        ["dense", "forced", "0.5"],
        ["forced", "0.5", "dense"],
        ["0.5", "dense", "forced"],
    ]


def test_a_model_without_kept_fractions_is_forced_alone() -> None:
    found = measured("gpt_neox-parallel", "post-norm", keeps=(1.0,))
    assert list(found["configurations"]) == ["dense", "forced"]


def test_circumstances_are_recorded() -> None:
    found = measured("gpt2", "post-abs")
    assert found["backend"] == "torch"
    assert found["fallback"] is None
    assert found["device"] == "cpu"
    assert found["dtype"] == "float32"
    assert found["threads"] == torch.get_num_threads()
    assert (found["prompt_tokens"], found["decoded_tokens"]) == (6, 3)
    assert "omp_wait_policy" in found


@pytest.mark.parametrize("rule", ["post-norm", "input"])
def test_bfloat16(rule: str) -> None:
    model = causal("gpt_neox-parallel").to(torch.bfloat16)
    found = measure_speed(model, rule, (0.5,), learn(model, INPUT_IDS), "torch", SETTINGS)
    assert found["dtype"] == "bfloat16"
    assert set(found["configurations"]) == {"dense", "forced", "0.5"}


def test_the_best_backend_is_named() -> None:
    model = causal("gpt_neox-parallel")
    found = measure_speed(model, "post-norm", (0.5,), None, "auto", SETTINGS)
    assert (found["backend"] == "torch") == (found["fallback"] is not None)


@pytest.mark.parametrize("rule", ["post-norm", "input", "sequence"])
def test_a_trained_model_with_the_best_backend(rule: str) -> None:
    """Wide enough for kernel and dense product to add in another order."""
    source = find_model("sdlms-small", None)
    model = load_causal_model(source, torch.float32, torch.device("cpu"))
    found = measure_speed(model, rule, (0.3,), learn(model, INPUT_IDS), "auto", SETTINGS)
    assert found["configurations"]["0.3"]["kept"] == pytest.approx([0.3] * 3, abs=0.15)


def test_a_wrong_product_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse execution that keeps fewer neurons than it says."""
    model = causal("gpt_neox-parallel")

    @contextmanager
    def wrong(
        model: PreTrainedModel, rule: str, keep: float, *, learned: Learned | None, how: How
    ) -> Iterator[Gates]:
        keep = keep if how.execution == "masked" else keep / 2
        with gated(model, rule, keep, learned=learned, how=how) as gates:
            yield gates

    monkeypatch.setattr(speed, "gated", wrong)
    with pytest.raises(ValueError, match=r"post-norm at 0\.5: sparse execution is off"):
        measure_speed(model, "post-norm", (0.5,), None, "torch", SETTINGS)


def logits(seed: int) -> Tensor:
    return torch.randn(9, 50, generator=torch.Generator().manual_seed(seed))


def test_logits_may_differ_by_rounding() -> None:
    expected = logits(0)
    check_same(expected, expected + 5e-5 * logits(1), 1e-4, "it")
    check_same(expected, expected + 5e-2 * logits(1), 0.1, "it")
    few = expected.clone()
    few[:4] += 0.01 * logits(1)[:4]
    check_same(expected, few, 1e-4, "it")


@pytest.mark.parametrize(("tolerance", "error"), [(1e-4, 2e-4), (0.1, 0.2), (1e-4, torch.nan)])
def test_results_that_differ_by_more_are_refused(tolerance: float, error: float) -> None:
    expected = logits(0)
    with pytest.raises(ValueError, match="it: sparse execution is off"):
        check_same(expected, expected + error * logits(1), tolerance, "it")


def test_rows_of_zeros_are_equal_to_themselves_alone() -> None:
    zeros = torch.zeros(3, 5)
    check_same(zeros, zeros, 1e-4, "it")
    with pytest.raises(ValueError, match="it: sparse execution is off"):
        check_same(zeros, zeros + 1, 1e-4, "it")


def test_a_rule_without_what_it_needs_is_refused() -> None:
    with pytest.raises(UserError, match="calibration"):
        measure_speed(causal("gpt2"), "threshold", (0.5,), None, "torch", SETTINGS)


def test_what_random_draws_depends_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only on it: the logits that are compared."""
    model = causal("gpt2")

    def drawn(seed: int) -> Tensor:
        checked: list[Tensor] = []
        monkeypatch.setattr(speed, "check_same", lambda *call: checked.append(call[1]))
        measure_speed(model, "random", (0.5,), None, "torch", replace(SETTINGS, seed=seed))
        return checked[0]

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.allclose(drawn(3), drawn(4))


def test_only_the_chosen_layers_are_gated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal("gpt_neox-parallel")
    gates: list[Gates] = []

    @contextmanager
    def noted(
        model: PreTrainedModel, rule: str, keep: float, *, learned: Learned | None, how: How
    ) -> Iterator[Gates]:
        with gated(model, rule, keep, learned=learned, how=how) as opened:
            gates.append(opened)
            yield opened

    monkeypatch.setattr(speed, "gated", noted)
    settings = replace(SETTINGS, layers=(0, 2))
    measure_speed(model, "post-norm", (0.5,), None, "torch", settings)
    assert [list(opened.by_layer()) for opened in gates] == [[0, 2], [0, 2]]
