"""Autoencoders and activations of one model, site and size go together; others are one line."""

from pathlib import Path
from typing import Any

import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.finding import Trained
from sdlms.sae.pairing import capture_of, check_model, check_sizes, check_units, encoded_source
from tests.acts.samples import SITE
from tests.stages.probe_runs import noise, published
from tests.stages.sae_runs import random_dictionary, sae_trained

BASE = {"name": "m", "weights": {"a": "1"}, "config": {"c": "2"}, "reinit_seed": None}
FRESH = {"weights": {"state": "9"}, "reinit_seed": 0}


def made(folder: Path, stage: str, model: dict[str, Any] | None) -> Run:
    with RunWriter(stage, {}, RunOptions(artifacts=folder)) as out:
        out.start({} if model is None else {"model": model}, {})
    return Run(out.path)


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({}, {}, None),
        ({}, {"name": "folder/m"}, None),  # a folder may be named in many ways
        ({}, {"weights": {"a": "3"}}, "weights"),
        ({}, FRESH, None),
        (FRESH, {}, None),
        (FRESH, FRESH, None),
        (FRESH, {**FRESH, "weights": {"state": "8"}}, "weights"),
        (FRESH, {**FRESH, "weights": {"state": "8"}, "reinit_seed": 1}, None),
        ({}, {**FRESH, "config": {"c": "3"}}, "config"),
        ({"weights": None}, {"weights": None, "name": "other"}, "name"),
    ],
)
def test_models_are_told_by_their_weights(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], differs: str | None
) -> None:
    sae = made(tmp_path, "sae-train", {**BASE, **one})
    acts = made(tmp_path, "capture", {**BASE, **other})
    if differs is None:
        check_model(sae, acts)
        return
    with pytest.raises(UserError, match=f"their {differs} differ") as refused:
        check_model(sae, acts)
    assert sae.name in str(refused.value) and acts.name in str(refused.value)


def trained(layer: int, site: str | None = SITE) -> Trained:
    return Trained("run", site, layer, f"l1_{layer}", Path(), 1.0)


def test_the_source_is_that_of_the_site_and_layers(tmp_path: Path) -> None:
    acts = published(tmp_path, noise(4))
    for site in (SITE, None):
        source = encoded_source(acts, [trained(1, site), trained(3, site)])
        assert source.description.site == SITE and source.digest is not None
    with pytest.raises(UserError, match=r"run has SAEs of mlp_act, .* holds resid_post. Capture"):
        encoded_source(acts, [trained(1, "mlp_act")])
    with pytest.raises(UserError, match=r"run has an SAE of layer 2, .* holds layers 1, 3"):
        encoded_source(acts, [trained(1), trained(2)])


def test_units_and_widths_must_agree(tmp_path: Path) -> None:
    acts = encoded_source(published(tmp_path, noise(4)), [trained(1)]).description
    both, five = [trained(1), trained(3)], random_dictionary(0)
    check_sizes(both, [five, random_dictionary(1)], acts)
    with pytest.raises(UserError, match=r"l1_3 of run takes 4 units, .* \(resid_post\) have 5"):
        check_sizes(both, [five, random_dictionary(1, n_units=4)], acts)
    with pytest.raises(UserError, match="l1_1 of layer 1 has 16 latents, l1_3 of layer 3 has 8"):
        check_sizes(both, [five, random_dictionary(1, width=8)], acts)


def test_one_size_is_compared_with_the_units() -> None:
    check_units(trained(1), random_dictionary(0), SITE, 5)
    with pytest.raises(UserError, match=r"l1_1 of run takes 5 units, .* \(resid_post\) have 8"):
        check_units(trained(1), random_dictionary(0), SITE, 8)


def test_the_capture_that_a_run_was_trained_on(tmp_path: Path) -> None:
    acts = published(tmp_path, noise(4))
    assert capture_of(sae_trained(tmp_path, acts)).path == acts.path
    with pytest.raises(UserError, match="was trained without a capture run: name one by --acts"):
        capture_of(sae_trained(tmp_path, None))
