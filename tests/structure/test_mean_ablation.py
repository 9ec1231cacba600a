"""Units and latents held at their mean, against plain loops and sae-lens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.dictionary import Architecture, Normalization
from sdlms.sae.lens_check import loaded_by_lens
from sdlms.structure import mean_ablation
from sdlms.structure.mean_ablation import latents_at_mean, unit_means, units_at_mean
from tests.acts.samples import Sample, acts_of, file_of, sample
from tests.sae.test_dictionary import (
    ARCHITECTURES,
    D_IN,
    NORMALIZATIONS,
    WIDTH,
    acts,
    random_dictionary,
    saved,
)

LATENTS = np.array([0, 3, 17, 39])
NONE = np.empty(0, dtype=np.int64)
MEANS = torch.rand(WIDTH, generator=torch.Generator().manual_seed(1))


def test_means_are_over_the_tokens_of_mask_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mean_ablation, "BATCH_DOCUMENTS", 2)
    data: Sample = sample([4, 0, 7, 1, 5], dtype=torch.float16)
    kept = torch.from_numpy(data.rows.mask > 0)
    found = acts_of(file_of(tmp_path / "a.h5", data))
    for layer, rows in data.acts.items():
        means = unit_means(found.select_layers(layer), int(kept.sum()))
        assert means.dtype == torch.float32
        torch.testing.assert_close(means, rows[kept].double().mean(0).float())


def test_what_is_not_finite_is_one_line(tmp_path: Path) -> None:
    data = sample([4, 3], holes=False)
    data.acts[3][5, 1] = torch.inf
    found = acts_of(file_of(tmp_path / "a.h5", data))
    with pytest.raises(UserError, match=r"^activations of layer 3 are not all finite\.[^\n]*$"):
        unit_means(found.select_layers(3), 7)


def test_units_are_held_and_the_others_are_not() -> None:
    before, units = acts(), np.array([1, 5])
    means = torch.arange(D_IN, dtype=torch.float32)
    after = units_at_mean(units, means)(before)
    assert torch.equal(before, acts())
    for unit in range(D_IN):
        expected = means[unit].expand(len(before)) if unit in units else before[:, unit]
        assert torch.equal(after[:, unit], expected)
    assert torch.equal(units_at_mean(NONE, means)(before), before)


def test_latents_are_held_and_the_error_of_the_autoencoder_stays() -> None:
    """By hand for the plain kind, row by row and latent by latent."""
    dictionary = random_dictionary("standard")
    weights = dictionary.tensors
    after = latents_at_mean(dictionary, LATENTS, MEANS)(acts())
    for row, found in zip(acts(), after, strict=True):
        latents = ((row - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
        expected = row.clone()
        for latent in LATENTS.tolist():
            expected += (MEANS[latent] - latents[latent]) * weights["W_dec"][latent]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_what_sae_lens_decodes(
    tmp_path: Path, architecture: Architecture, normalization: Normalization
) -> None:
    """Its reconstruction with the latents changed, plus its error."""
    ours = replace(
        random_dictionary(architecture),
        normalize_activations=normalization,
        rescale_acts_by_decoder_norm=architecture == "topk",
    )
    theirs = loaded_by_lens(saved(tmp_path, ours))
    latents = theirs.encode(acts())
    error = acts() - theirs.decode(latents)
    changed = theirs.encode(acts())  # which also notes scales that the next decoding uses up
    changed[:, torch.from_numpy(LATENTS)] = MEANS[LATENTS]
    expected = theirs.decode(changed) + error
    found = latents_at_mean(ours, LATENTS, MEANS)(acts())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, acts(), atol=0.1)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_no_latent_or_one_that_is_at_its_mean_changes_nothing(
    normalization: Normalization,
) -> None:
    dictionary = replace(random_dictionary("topk"), normalize_activations=normalization)
    before: Tensor = acts(1)
    latents = dictionary.encode(before)
    assert torch.equal(latents_at_mean(dictionary, NONE, MEANS)(before), before)
    assert torch.equal(latents_at_mean(dictionary, LATENTS, latents[0])(before), before)
