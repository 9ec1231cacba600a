import pytest
import torch

from sdlms.sae.dictionary import dictionary_of
from sdlms.sae.folding import folded
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.recipe import KINDS, Kind
from tests.sae.small_saes import small_batches, small_recipe, small_start

SCALE = 0.03


def trained(kind: Kind) -> LensLearner:
    learner = LensLearner(small_recipe(kind), small_start(kind), torch.float32, torch.device("cpu"))
    for acts in small_batches(20):
        learner.step(acts)
    learner.calibrate(torch.cat(small_batches(5)))
    return learner


@pytest.mark.parametrize("kind", KINDS)
def test_raw_activations_are_reconstructed_as_scaled_ones_were(kind: Kind) -> None:
    learner = trained(kind)
    scaled = small_batches(1, seed=9)[0]
    dictionary = dictionary_of(learner.recipe, learner.weights(), SCALE)
    raw = scaled / SCALE
    latents = dictionary.encode(raw)
    sums = learner.evaluate(scaled)
    assert int((latents > 0).sum()) == sums.n_active
    error = float((dictionary.decode(latents) - raw).square().sum()) * SCALE**2
    assert error == pytest.approx(sums.squared_error, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_adds_what_its_activation_says(kind: Kind) -> None:
    learner = trained(kind)
    dictionary = dictionary_of(learner.recipe, learner.weights(), SCALE)
    ones = torch.ones(dictionary.width)
    torch.testing.assert_close(dictionary.decoder.norm(dim=1), ones, rtol=1e-6, atol=0)
    fraction = SCALE * float(dictionary.bias.norm()) / float(learner.weights()["b_dec"].norm())
    assert fraction == pytest.approx(1)
    assert all(tensor.dtype == torch.float32 for tensor in dictionary.tensors.values())


def test_what_is_folded_is_a_copy() -> None:
    start = small_start("gated")
    raw = folded("gated", start, 1.0)
    for tensor in raw.values():
        tensor.fill_(5.0)
    assert all(torch.equal(start[name], small_start("gated")[name]) for name in start)


def test_a_latent_without_a_decoder_row_stays_as_it_is() -> None:
    start = small_start("standard")
    start["W_dec"][3] = 0
    raw = folded("standard", start, 1.0)
    assert torch.equal(raw["W_dec"][3], start["W_dec"][3])
    assert torch.equal(raw["W_enc"][:, 3], start["W_enc"][:, 3])


def test_in_a_rescaled_kind_it_never_fires() -> None:
    start = small_start("topk")
    start["W_dec"][3] = 0
    raw = folded("topk", start, 1.0)
    assert not raw["W_enc"][:, 3].any()
    assert torch.isfinite(raw["W_dec"]).all()
