import time

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.dynamic.decoding import Clock, Text, decode, time_text
from tests.models.tiny_models import CAUSAL, INPUT_IDS, random_model

TEXT = Text(prompt=INPUT_IDS[:1, :6], decoded=INPUT_IDS[0, 6:])


def causal(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


@pytest.mark.parametrize("name", CAUSAL)
def test_logits_are_those_of_one_forward(name: str) -> None:
    """Also where windows are shorter than the text, and every time anew."""
    model = causal(name)
    with torch.no_grad():
        expected = model(INPUT_IDS[:1]).logits[0, 5:]
    for _ in range(2):
        found = torch.cat(list(decode(model, TEXT)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_prompt_is_read_at_once_and_the_rest_one_by_one() -> None:
    model = causal("gpt_neox-parallel")
    calls: list[list[int]] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: calls.append(args[0].flatten().tolist())
    )
    for logits in decode(model, TEXT):
        assert logits.shape == (1, 50)
        assert not logits.requires_grad
    assert calls == [TEXT.prompt[0].tolist(), *([token] for token in TEXT.decoded.tolist())]


def test_each_step_has_its_time_and_what_lies_between_has_none() -> None:
    model = causal("llama")
    steps = 0

    def slowly(module: torch.nn.Module, args: object) -> None:
        nonlocal steps
        steps += 1
        time.sleep(0.02 * steps)

    model.get_input_embeddings().register_forward_pre_hook(slowly)
    between: list[int] = []

    def after_prompt() -> None:
        between.append(steps)
        time.sleep(0.3)

    started = time.perf_counter()
    seconds = time_text(model, TEXT, after_prompt)
    in_all = time.perf_counter() - started
    assert between == [1]
    assert len(seconds.tokens) == 3
    for step, taken in enumerate([seconds.prefill, *seconds.tokens], 1):
        assert taken >= 0.02 * step
    assert seconds.prefill + sum(seconds.tokens) <= in_all - 0.3


def test_the_clock_goes_on() -> None:
    clock = Clock(torch.device("cpu"))
    started = clock.seconds()
    time.sleep(0.01)
    assert clock.seconds() - started >= 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_clock_waits_for_the_device() -> None:
    device = torch.device("cuda")
    x = torch.randn(8192, 8192, device=device)
    clock = Clock(device)
    clock.seconds()
    for _ in range(20):
        x = x @ x
    event = torch.cuda.Event()
    event.record()
    clock.seconds()
    assert event.query()
