"""The greedy path against one that is found by hand."""

import itertools

import pytest
import torch
from torch import nn

from sdlms.models.architectures import activation_name
from sdlms.models.gating.allocation import STEP, Sample, _Trial, allocate
from sdlms.models.gating.layouts import Mlp, mlps_of
from sdlms.models.gating.learned import QUANTILES, at
from tests.models.tiny_models import EVERY_CAUSAL_CASE, random_model

CURVE = QUANTILES.float() * 2


def sample() -> Sample:
    inputs = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    return Sample(inputs, added=2.0, stream=4.0)


def mlp_of(name: str) -> tuple[Mlp, str]:
    model = random_model(name)
    return mlps_of(model, (1,))[0], activation_name(model.config)


@EVERY_CAUSAL_CASE
@torch.no_grad()
def test_the_trial_computes_what_the_mlp_computes(name: str) -> None:
    mlp, activation = mlp_of(name)
    trial = _Trial(mlp, activation, sample().inputs, (CURVE,) * len(mlp.maps))
    if hasattr(mlp.block, "mlp"):
        expected = mlp.block.mlp(sample().inputs[None])[0]
    else:
        expected = mlp.block.fc2(mlp.block.activation_fn(mlp.block.fc1(sample().inputs)))
    torch.testing.assert_close(trial._dense, expected, rtol=1e-5, atol=1e-5)


def test_each_step_is_the_cheapest() -> None:
    mlp, activation = mlp_of("llama")
    curves = (CURVE,) * 3
    allocation = allocate(mlp, activation, sample(), curves)
    trial = _Trial(mlp, activation, sample().inputs, curves)
    sizes = [linear.n_inputs * linear.n_outputs for linear in mlp.maps]
    steps = allocation.keeps.flip(0).tolist()
    assert steps[0] == [1, 1, 1]
    assert steps[-1] == pytest.approx([STEP] * 3)
    for before, after in itertools.pairwise(steps):
        lowered = [index for index in range(3) if after[index] < before[index]]
        assert len(lowered) == 1
        costs = {}
        for index in range(3):
            if before[index] > STEP + 1e-9:
                lower = [*before]
                lower[index] = round(lower[index] - STEP, 6)
                costs[index] = (trial.error(lower) - trial.error(before)) / sizes[index]
        assert costs[lowered[0]] == pytest.approx(min(costs.values()))
    expected = torch.tensor([trial.error(keeps) for keeps in steps[::-1]]).double() / 2
    torch.testing.assert_close(allocation.errors, expected)


def test_what_is_kept_of_earlier_trials_changes_nothing() -> None:
    mlp, activation = mlp_of("llama")
    trial = _Trial(mlp, activation, sample().inputs, (CURVE,) * 3)
    order = torch.Generator().manual_seed(0)
    for _ in range(40):
        keeps = (torch.randint(1, 5, (3,), generator=order) / 4).tolist()
        fresh = _Trial(mlp, activation, sample().inputs, (CURVE,) * 3)
        assert trial.error(keeps) == fresh.error(keeps)


def test_a_matrix_that_gives_nothing_is_lowered_first() -> None:
    mlp, activation = mlp_of("llama")
    nn.init.zeros_(mlp.down.weight)
    mlp.down.weight.data[:, :2] = 1.0  # only two neurons are read: most of its inputs are free
    allocation = allocate(mlp, activation, sample(), (CURVE,) * 3)
    assert allocation.errors[-1] == 0
    nn.init.zeros_(mlp.down.weight)
    assert not allocate(mlp, activation, sample(), (CURVE,) * 3).errors.any()


def test_the_errors_are_those_of_thresholded_inputs() -> None:
    mlp, activation = mlp_of("phi")
    trial = _Trial(mlp, activation, sample().inputs, (CURVE, CURVE))
    inputs = sample().inputs
    kept = inputs.where(inputs.abs() > at(CURVE, 0.6), 0)
    with torch.no_grad():
        found, dense = mlp.block.mlp(kept), mlp.block.mlp(inputs)
    expected = float((found - dense).square().sum() / dense.square().sum())
    assert trial.error([0.4, 1.0]) == pytest.approx(expected, rel=1e-4)
