from dataclasses import replace

import pytest
import torch

from sdlms.sae.initial import initial_weights
from sdlms.sae.lens_check import without_traces
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.recipe import KINDS, Kind
from tests.sae.small_saes import D_IN, WIDTH, small_recipe

MEAN = torch.arange(D_IN, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_sae_lens(kind: Kind) -> None:
    weights = initial_weights(small_recipe(kind), MEAN)
    theirs = LensLearner(small_recipe(kind), weights, torch.float32, torch.device("cpu"))
    wanted = {name: value.shape for name, value in theirs._sae.named_parameters()}
    assert {name: value.shape for name, value in weights.items()} == wanted
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_it_starts_as_sae_lens_starts() -> None:
    """Rows of norm 0.1, the encoder their transpose, biases 0."""
    weights = initial_weights(small_recipe("standard"), torch.zeros(D_IN))
    assert torch.allclose(weights["W_dec"].norm(dim=1), torch.tensor(0.1))
    assert torch.equal(weights["W_enc"], weights["W_dec"].T)
    assert not weights["b_enc"].any()
    assert not weights["b_dec"].any()


def test_sae_lens_draws_the_same_numbers() -> None:
    with without_traces():
        from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Theirs draws the decoder first, from the global stream.
        theirs = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=WIDTH))
    ours = initial_weights(small_recipe("standard"), MEAN)
    assert torch.allclose(ours["W_dec"], theirs.W_dec.detach())


def test_the_bias_is_the_mean_and_a_copy_of_it() -> None:
    mean = MEAN.float()
    weights = initial_weights(small_recipe("topk"), mean)
    assert torch.equal(weights["b_dec"], mean)
    weights["b_dec"].zero_()
    assert mean.any()


def test_the_start_depends_on_the_seed_and_the_sizes_alone() -> None:
    recipe = small_recipe("standard")
    first = initial_weights(recipe, MEAN)
    torch.rand(3)
    again = initial_weights(replace(recipe, coefficient=9.0, kind="topk"), MEAN)
    other = initial_weights(replace(recipe, seed=1), MEAN)
    assert torch.equal(first["W_dec"], again["W_dec"])
    assert not torch.equal(first["W_dec"], other["W_dec"])


def test_jumprelus_threshold_is_small() -> None:
    threshold = initial_weights(small_recipe("jumprelu"), MEAN)["threshold"]
    assert torch.equal(threshold, torch.full((WIDTH,), 0.01))
