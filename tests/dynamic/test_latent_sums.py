import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.dynamic import latent_sums as module
from sdlms.dynamic.latent_sums import NAMES, by_name, latent_sums
from sdlms.errors import UserError
from sdlms.sae.evaluation import HeldOut, measure
from tests.stages.sae_runs import random_dictionary

DOCUMENTS = np.repeat(np.arange(4), [5, 0, 7, 3])


def acts_of(seed: int) -> Tensor:
    return torch.randn(15, 5, generator=torch.Generator().manual_seed(seed))


def test_sums_are_those_of_a_plain_loop() -> None:
    dictionary, mean = random_dictionary(0), torch.randn(5, dtype=torch.float64)
    dense, gated = acts_of(1), acts_of(2)
    found = latent_sums(dictionary, mean, (dense, gated), DOCUMENTS, 4)
    expected = np.zeros_like(found)
    for row, document in enumerate(DOCUMENTS.tolist()):
        x, g = dense[row : row + 1], gated[row : row + 1]
        fired, still = dictionary.encode(x)[0] > 0, dictionary.encode(g)[0] > 0
        y, h = dictionary.reconstruct(x)[0].double(), dictionary.reconstruct(g)[0].double()
        x, g = x[0].double(), g[0].double()
        both = sum(int(a and b) for a, b in zip(fired, still, strict=True))
        counts = [1, int(fired.sum()), int(still.sum()), both]
        squares = [(x - y), (x - mean), (g - h), (g - mean), (x - h)]
        expected[:, document] += [*counts, *(float(s.square().sum()) for s in squares)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert (found[:4] == expected[:4]).all()


def test_fvu_is_that_of_the_evaluation_of_autoencoders() -> None:
    dictionary, dense = random_dictionary(3), acts_of(1)
    mean = torch.randn(5, dtype=torch.float64)
    offsets = np.array([0, 5, 5, 12, 15])
    held_out = HeldOut(dense, offsets, np.arange(15), ["a"] * 4)
    expected = measure(dictionary, held_out, mean, 0).evaluation
    sums = dict(
        zip(NAMES, latent_sums(dictionary, mean, (dense, dense), DOCUMENTS, 4), strict=True)
    )
    for error in ("dense_error", "gated_error", "crossed_error"):
        fvu = sums[error].sum() / sums["dense_energy"].sum()
        assert fvu == pytest.approx(expected.fvu, rel=1e-12)
    assert sums["dense"].sum() / 15 == expected.l0


def test_the_same_activations_give_the_same_sums_exactly() -> None:
    sums = latent_sums(
        random_dictionary(0), torch.zeros(5).double(), (acts_of(1), acts_of(1)), DOCUMENTS, 4
    )
    found = dict(zip(NAMES, sums, strict=True))
    assert (found["dense"] == found["both"]).all()
    assert (found["dense_error"] == found["gated_error"]).all()
    assert (found["dense_error"] == found["crossed_error"]).all()


def test_blocks_of_rows_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_dictionary(0), torch.zeros(5).double(), (acts_of(1), acts_of(2)), DOCUMENTS, 4
    whole = latent_sums(*given)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 16 * 4)
    assert latent_sums(*given) == pytest.approx(whole, rel=1e-6)


def test_what_is_not_finite_is_refused() -> None:
    acts = acts_of(1)
    acts[3, 2] = torch.inf
    with pytest.raises(UserError, match="not finite"):
        latent_sums(random_dictionary(0), torch.zeros(5).double(), (acts_of(1), acts), DOCUMENTS, 4)


def test_json_has_counts_as_whole_numbers() -> None:
    found = by_name(np.full((len(NAMES), 2), 3.0))
    assert [type(found[name][0]) for name in NAMES] == [int] * 4 + [float] * 5
