"""Choosing tokens: greedy, by temperature, from the nucleus."""

import math

import pytest
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.models.sampling import Sampling, nucleus, sample

LOGITS = torch.tensor([0.0, 3.0, 1.0, 2.0, -math.inf])


def drawn(logits: Tensor, sampling: Sampling, n_draws: int) -> Tensor:
    generator = sampling.generator()
    ids = [sample(logits, sampling, generator) for _ in range(n_draws)]
    return torch.bincount(torch.tensor(ids), minlength=len(logits)) / n_draws


@pytest.mark.parametrize("temperature", [0, 1e-30])
def test_no_temperature_takes_the_most_probable(temperature: float) -> None:
    sampling = Sampling(temperature=temperature)
    assert drawn(LOGITS, sampling, 20).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, dim=0)
    fractions = drawn(LOGITS, Sampling(temperature=temperature), 4000)
    assert (fractions - expected).abs().max() < 0.03
    assert fractions[4] == 0


def test_top_p_draws_from_the_nucleus_only() -> None:
    # The three most probable tokens have 0.64, 0.24 and 0.09 of it.
    kept = torch.softmax(LOGITS[[1, 3]], dim=0)
    fractions = drawn(LOGITS, Sampling(temperature=1, top_p=0.7), 4000)
    assert fractions[[0, 2, 4]].sum() == 0
    assert (fractions[[1, 3]] - kept).abs().max() < 0.03


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.01, 1, 10])  # flat ones have a nucleus of thousands
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(3000, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(logits, dim=0)
    ids = nucleus(probabilities, top_p)
    falling = probabilities.sort(descending=True).values
    n_kept = 1
    while falling[:n_kept].sum() < top_p - 1e-12 and n_kept < 3000:
        n_kept += 1
    assert torch.equal(probabilities[ids], falling[:n_kept])


def test_the_seed_decides() -> None:
    logits = torch.zeros(1000)

    def draws(seed: int) -> list[int]:
        sampling = Sampling(temperature=1, top_p=0.9, seed=seed)
        generator = sampling.generator()
        return [sample(logits, sampling, generator) for _ in range(8)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_takes_sixteen_bits(dtype: torch.dtype) -> None:
    sampling = Sampling(temperature=1)
    assert sample(LOGITS.to(dtype), sampling, sampling.generator()) in range(4)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_refuses_logits_that_are_no_numbers(broken: float, temperature: float) -> None:
    logits = LOGITS.clone()
    logits[2] = broken
    sampling = Sampling(temperature=temperature)
    with pytest.raises(UserError, match=r"not finite .*--dtype float32"):
        sample(logits, sampling, sampling.generator())
    with pytest.raises(UserError, match="not finite"):
        sample(torch.full((3,), -math.inf), sampling, sampling.generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be in"),
        ({"temperature": math.nan}, "temperature must be in"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
        ({"seed": -1}, "seed must be in"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**settings)
