"""Losses of windows are those of a plain loop over transformers' own logits."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.dynamic.losses import (
    DocumentLosses,
    document_losses,
    losses_of_record,
    losses_of_states,
    losses_of_windows,
)
from sdlms.dynamic.windows import Windows, WindowSettings
from sdlms.errors import UserError
from sdlms.models.architectures import n_layers
from sdlms.models.loading import find_model, load_causal_model
from sdlms.models.replacing import replacing, run_once
from tests.dynamic.texts import drawn_text, random_windows
from tests.models.tiny_models import random_model


def losses(model: PreTrainedModel, windows: Windows, budget: int = 64) -> np.ndarray:
    return losses_of_windows(model, windows, budget, lambda _: None)


@torch.no_grad()
def plain_loop(model: PreTrainedModel, windows: Windows) -> list[tuple[int, float]]:
    """Document and loss of each scored token, one window and one token at a time."""
    found = []
    for row, ids in enumerate(torch.from_numpy(windows.ids)):
        logits = model(ids[None]).logits[0].double()
        for position in range(windows.first, len(ids)):
            if windows.scored[row, position - windows.first]:
                loss = cross_entropy(logits[position - 1], ids[position]).item()
                found.append((int(windows.document[row, position - windows.first]), loss))
    return found


def check(model: PreTrainedModel, windows: Windows) -> None:
    """Perplexity and the sums of each document, against the plain loop."""
    expected = plain_loop(model, windows)
    found = document_losses(losses(model, windows), windows)
    nats = math.fsum(loss for _, loss in expected) / len(expected)
    assert found.counts.sum() == len(expected)
    perplexity = math.exp(found.sums.sum() / found.counts.sum())
    assert perplexity == pytest.approx(math.exp(nats), rel=1e-6)
    for document in range(len(windows.document_ids)):
        own = [loss for number, loss in expected if number == document]
        assert found.counts[document] == len(own) > 0
        assert found.sums[document] == pytest.approx(math.fsum(own), rel=1e-5)


def test_perplexity_of_the_embedded_model_is_that_of_a_plain_loop() -> None:
    model = load_causal_model(find_model("sdlms-small", None), torch.float32, torch.device("cpu"))
    settings = WindowSettings(window=128, stride=64, max_tokens=700, calibration_tokens=0)
    windows = drawn_text(settings).windows
    check(model, windows)
    found = document_losses(losses(model, windows, budget=512), windows)
    assert 5 < math.exp(found.sums.sum() / found.counts.sum()) < 15  # it has learned its language


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt-projected", "gpt_neo"])
def test_perplexity_of_any_family_is_that_of_a_plain_loop(name: str) -> None:
    check(random_model(name, AutoModelForCausalLM), random_windows())


@pytest.mark.parametrize("first", [1, 11])
def test_windows_of_one_and_of_all_scored_tokens(first: int) -> None:
    check(random_model("llama", AutoModelForCausalLM), random_windows(first=first))


def test_what_is_not_scored_is_zero() -> None:
    windows = random_windows()
    found = losses(random_model("gemma2", AutoModelForCausalLM), windows)
    assert found.dtype == np.float64 and found.shape == windows.scored.shape
    assert np.array_equal(found > 0, windows.scored)
    blank = windows._replace(scored=windows.scored & (windows.task == 1)[:, None])
    assert not losses(random_model("llama", AutoModelForCausalLM), blank)[:3].any()


def test_the_same_batches_give_the_same_bits_and_others_the_same_numbers() -> None:
    windows, model = random_windows(), random_model("llama", AutoModelForCausalLM)
    assert np.array_equal(losses(model, windows), losses(model, windows))
    for budget in (1, 12, 25, 10**6):
        np.testing.assert_allclose(
            losses(model, windows, budget), losses(model, windows), rtol=1e-5
        )


def test_open_contexts_count() -> None:
    windows, model = random_windows(), random_model("llama", AutoModelForCausalLM)
    before = losses(model, windows)
    with replacing(model, 1, "mlp_act", torch.zeros_like):
        assert not np.allclose(losses(model, windows)[windows.scored], before[windows.scored])
        check(model, windows)
    assert np.array_equal(losses(model, windows), before)


def test_each_state_is_as_if_it_were_alone() -> None:
    windows, model = random_windows(), random_model("gemma2", AutoModelForCausalLM)
    sites = ("mlp_act", "attn_out")

    def residuals(input_ids: torch.Tensor):  # noqa: ANN202
        rerun = run_once(model, 1, input_ids)
        yield rerun.resid
        for site in sites:
            with replacing(model, 1, site, torch.zeros_like):
                yield rerun.again()

    found = losses_of_states(model, windows, residuals, 64, lambda _: None)
    assert found.shape == (3, *windows.scored.shape)
    assert np.array_equal(found[0], losses(model, windows))
    for site, own in zip(sites, found[1:], strict=True):
        with replacing(model, 1, site, torch.zeros_like):
            assert np.array_equal(own, losses(model, windows))


def test_when_memory_runs_out_batches_are_halved_and_losses_stay() -> None:
    windows, model = random_windows(), random_model("llama", AutoModelForCausalLM)
    expected, told = losses(model, windows), []

    def runs_out(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if len(kwargs["input_ids"]) > 2:
            raise MemoryError

    handle = model.base_model.register_forward_pre_hook(runs_out, with_kwargs=True)
    found = losses_of_windows(model, windows, 60, told.append)
    handle.remove()
    assert told == [30]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    handle = model.base_model.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(MemoryError)
    )
    with pytest.raises(UserError, match="out of memory on a single document of 12 tokens"):
        losses(model, windows, 12)
    handle.remove()


def test_logits_exist_for_scored_tokens_only() -> None:
    windows, model = random_windows(), random_model("llama", AutoModelForCausalLM)
    rows = []
    handle = model.lm_head.register_forward_hook(
        lambda module, args, output: rows.append(output.shape[0])
    )
    losses(model, windows)
    handle.remove()
    assert sum(rows) == windows.scored.sum()
    assert n_layers(model.config) == 3


def test_sums_survive_json_bit_by_bit() -> None:
    windows = random_windows()
    values = np.random.default_rng(0).random(windows.scored.shape) / 3
    found = document_losses(values, windows)
    assert found.task.tolist() == sorted(found.task.tolist())
    assert set(found.task.tolist()) == {0, 1}
    again = losses_of_record(json.loads(json.dumps(found.record())))
    assert again.ids == found.ids
    for name in DocumentLosses._fields[1:]:
        one, other = getattr(found, name), getattr(again, name)
        assert one.dtype == other.dtype and np.array_equal(one, other)
    plain = [math.fsum(values[windows.document == number]) for number in range(len(found.ids))]
    np.testing.assert_allclose(found.sums, plain, rtol=1e-14)
