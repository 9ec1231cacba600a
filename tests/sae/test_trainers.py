"""Who trains: our steps for what they know, sae-lens for the rest and on request."""

from importlib.metadata import version

import pytest
import torch

from sdlms.sae.initial import initial_weights
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.recipe import KINDS, Kind
from sdlms.sae.trainers import OWN, described, learner_of, trainer_of
from tests.sae.recipes import recipe
from tests.sae.sweeps import CPU


@pytest.mark.parametrize("kind", KINDS)
def test_our_steps_are_taken_where_there_are_any(kind: Kind) -> None:
    assert trainer_of(kind, "sae-lens") == "sae-lens"
    assert trainer_of(kind, "auto") == ("sdlms" if kind in ("standard", "topk") else "sae-lens")
    assert described(kind, "sae-lens") == f"sae-lens {version('sae-lens')}"
    assert described("topk", "auto") == "sdlms"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["auto", "sae-lens"])
def test_a_learner_starts_with_what_it_is_given(kind: Kind, wanted: str) -> None:
    own = recipe(kind)
    initial = initial_weights(own, torch.arange(8.0))
    learner = learner_of(own, initial, torch.float32, CPU, wanted)  # type: ignore[arg-type]
    expected = OWN[kind] if wanted == "auto" and kind in OWN else LensLearner
    assert type(learner) is expected
    assert (learner.recipe, learner.n_done) == (own, 0)
    for name, tensor in initial.items():
        if (kind, name) != ("batchtopk", "threshold"):
            assert torch.equal(learner.weights()[name], tensor)
    learner.step(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(initial["b_dec"], torch.arange(8.0))
