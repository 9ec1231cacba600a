"""What a row of `sae.csv` says, against sae-lens on the same folder and plain torch."""

import gc
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdlms.acts.flattening import TokenRows
from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.sae.baselines import Moments, PrincipalEnergies
from sdlms.sae.cross_entropy import Scoring, constant, recovered, zeros
from sdlms.sae.dictionary import Dictionary, config_of, load_dictionary
from sdlms.sae.evaluation import measure
from sdlms.sae.lens_check import loaded_by_lens
from sdlms.sae.measuring import COLUMNS, CROSS_ENTROPY, Ground, Row, Saved, measure_all
from sdlms.sae.stability import matched_cosine
from sdlms.storage.latents import LatentsMember, LatentsReader
from sdlms.storage.sae_files import write_sae
from tests.acts.samples import rows_with
from tests.models.tiny_models import random_model
from tests.sae.measured_samples import LENGTHS, TASKS, some_dictionary, some_positions
from tests.sae.sweeps import CPU

MODEL = {"name": "tiny", "commit": None}
LAYERS = (1, 2)
SITE = "resid_post"
N_UNITS = 6


def written(
    folder: Path, layer: int, name: str, partner: str = "", screened: int = 0, seed: int = 0
) -> Saved:
    dictionary = some_dictionary(seed=seed)
    arrays = {key: tensor.numpy() for key, tensor in dictionary.tensors.items()}
    path = folder / f"{layer}/{name}"
    write_sae(path, arrays, config_of(dictionary, {}))
    facts: Row = {"layer": layer, "member": name, "selected": 0, "screened": screened}
    return Saved(layer, name, path, facts, partner)


def acts(n_rows: int, seed: int) -> Tensor:
    """`[layer, row, unit]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LAYERS), n_rows, N_UNITS, generator=generator) + 0.5


def ground(scoring: Scoring | None = None, training: Tensor | None = None) -> Ground:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    tokens = TokenRows(acts(sum(LENGTHS), 1), offsets, some_positions(LENGTHS))
    rows = acts(200, 2) if training is None else training
    return Ground(
        site=SITE,
        layers=LAYERS,
        tokens=tokens,
        moments=[Moments.of(own) for own in rows],
        document_ids=[f"doc{i}" for i in range(len(LENGTHS))],
        document_tasks=TASKS,
        scoring=scoring,
        device=CPU,
        seed=0,
    )


def sweep(folder: Path) -> list[Saved]:
    return [
        written(folder, layer, name, partner, seed=10 * layer + number)
        for layer in LAYERS
        for number, (name, partner) in enumerate([("a", "b"), ("b", "a"), ("alone", "")])
    ]


def test_rows_agree_with_sae_lens_and_plain_torch(tmp_path: Path) -> None:
    members, own = sweep(tmp_path), ground()
    rows = measure_all(members, own, tmp_path / "latents.h5", MODEL)
    assert [(row["layer"], row["member"]) for row in rows] == [(m.layer, m.name) for m in members]
    for row, member in zip(rows, members, strict=True):
        index = LAYERS.index(member.layer)
        x, mean = own.tokens.acts[index], own.moments[index].mean
        theirs = loaded_by_lens(member.folder)
        with torch.no_grad():
            latents, y = theirs.encode(x), theirs(x).double()
        total = (x.double() - mean).square().sum()
        fvu = float((x.double() - y).square().sum() / total)
        l0 = float((latents > 0).sum(dim=1).double().mean())
        assert row["fvu"] == pytest.approx(fvu, rel=1e-5)
        assert row["explained_variance"] == pytest.approx(1 - fvu, rel=1e-5)
        assert row["l0"] == pytest.approx(l0)
        assert row["n_dead"] == int(((latents > 0).sum(dim=0) == 0).sum()) >= 1
        assert row["n_tokens"] == len(x)
        assert row["pca_components"] == min(round(l0), N_UNITS)
        k = int(str(row["pca_components"]))
        expected = PrincipalEnergies.of(own.moments[index], x).fvu(k)
        assert row["pca_fvu"] == pytest.approx(expected, abs=1e-9)
        assert set(COLUMNS) - set(row) == {
            *("site", "architecture", "coefficient", "seed"),
            *("d_in", "width", "expansion", "steps", "best_step", "ended"),
        }


def test_latents_that_fire_are_matched_with_those_of_the_partner(tmp_path: Path) -> None:
    members, own = sweep(tmp_path), ground()
    rows = measure_all(members, own, tmp_path / "latents.h5", MODEL)
    for row, member in zip(rows, members, strict=True):
        if not member.partner:
            assert math.isnan(float(str(row["stability"])))
            assert "no second seed to compare with" in str(row["reason"])
            continue
        other = next(m for m in members if (m.layer, m.name) == (member.layer, member.partner))
        sides = []
        for each in (member, other):
            dictionary = load_dictionary(each.folder)
            fires = dictionary.encode(own.tokens.acts[LAYERS.index(each.layer)]).sum(dim=0) > 0
            sides.append(dictionary.decoder[fires])
        expected = matched_cosine(sides[0], sides[1], 0)
        assert row["stability"] == pytest.approx(expected.mean)
        assert row["stability_latents"] == len(sides[0]) < 20


def test_the_file_of_latents_agrees_with_the_table(tmp_path: Path) -> None:
    members, own = sweep(tmp_path), ground()
    rows = measure_all(members, own, tmp_path / "latents.h5", MODEL, "sae/of/others")
    with LatentsReader(tmp_path / "latents.h5") as reader:
        assert reader.members() == [LatentsMember(SITE, m.layer, m.name) for m in members]
        assert reader.attributes["sae"] == "sae/of/others"
        assert reader.document_ids() == list(own.document_ids)
        for row, member in zip(rows, members, strict=True):
            key = LatentsMember(SITE, member.layer, member.name)
            counts = reader.array(key, "firing_count")
            assert counts.sum() / sum(LENGTHS) == pytest.approx(row["l0"])
            assert (counts == 0).sum() == row["n_dead"]


def n_dictionaries() -> int:
    gc.collect()
    return sum(type(each) is Dictionary for each in gc.get_objects())


def test_the_autoencoders_of_one_layer_are_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, seen = sweep(tmp_path), []

    def counting(*arguments: object) -> object:
        seen.append(n_dictionaries())
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("sdlms.sae.measuring.measure", counting)
    before = n_dictionaries()
    measure_all(members, ground(), tmp_path / "latents.h5", MODEL)
    assert [n - before for n in seen] == [3] * 6


def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdlms.sae.measuring.measure", lambda *_: torch.empty(2**50))
    with pytest.raises(UserError, match=r"6 autoencoders do not fit the memory of cpu\. Lower"):
        measure_all(sweep(tmp_path), ground(), tmp_path / "latents.h5", MODEL)


def test_progress_counts_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER.name):
        measure_all(sweep(tmp_path), ground(), tmp_path / "latents.h5", MODEL)
    assert f"measuring: {6 * sum(LENGTHS):,} tokens in" in caplog.text


def test_a_member_does_not_depend_on_its_companions(tmp_path: Path) -> None:
    members, own = sweep(tmp_path), ground()
    together = measure_all(members, own, tmp_path / "all.h5", MODEL)
    alone = measure_all([members[-1]], own, tmp_path / "one.h5", MODEL)
    assert repr(alone[0]) == repr(together[-1])


def test_cross_entropy_is_that_of_the_model_with_the_site_replaced(tmp_path: Path) -> None:
    model = random_model("gpt_neox-parallel", AutoModelForCausalLM)
    rows = rows_with([7, 5, 9, 4], np.arange(25) % 4 > 0)
    scoring = Scoring(model, rows, 64)
    d_in = int(model.config.hidden_size)
    random = torch.Generator().manual_seed(3)
    dictionary = some_dictionary()
    sizes = {"W_enc": (d_in, 20), "W_dec": (20, d_in), "b_dec": (d_in,), "b_enc": (20,)}
    arrays = {n: torch.randn(*s, generator=random).numpy() / 3 for n, s in sizes.items()}
    facts: Row = {"selected": 0, "screened": 0}
    members = []
    for name, screened in (("gone", 1), ("left", 0)):
        config = {**config_of(dictionary, {}), "d_in": d_in}
        write_sae(tmp_path / name, arrays, config)
        members.append(Saved(1, name, tmp_path / name, {**facts, "screened": screened}))
    held_out = torch.randn(1, sum(LENGTHS), d_in, generator=random)
    own = ground(scoring)
    training = torch.randn(1, 100, d_in, generator=random)
    tokens = TokenRows(held_out, own.tokens.offsets, own.tokens.positions)
    moments = [Moments.of(training[0])]
    own = Ground(**{**vars(own), "layers": [1], "tokens": tokens, "moments": moments})
    gone, left = measure_all(members, own, tmp_path / "latents.h5", MODEL)
    replacements = [
        zeros,
        constant(training[0].double().mean(dim=0).float()),
        load_dictionary(tmp_path / "left").reconstruct,
    ]
    losses = scoring.losses(SITE, 1, replacements)
    n_tokens = int(losses.counts.sum())
    expected = [losses.clean.sum() / n_tokens, *(losses.replaced.sum(axis=1) / n_tokens)]
    found = [left[name] for name in ("ce_clean", "ce_zero", "ce_mean", "ce_sae")]
    assert found == pytest.approx(expected, rel=1e-6)
    assert (left["ce_tokens"], left["ce_documents"]) == (n_tokens, 4)
    for suffix, which in (("", 0), ("_mean", 1)):
        whole = recovered(
            losses.clean, losses.replaced[which], losses.replaced[2], losses.counts, 0
        )
        row = [left[f"ce_recovered{suffix}{end}"] for end in ("", "_low", "_high")]
        assert row == pytest.approx([whole.value, whole.low, whole.high], nan_ok=True)
    assert all(math.isnan(float(str(gone[name]))) for name in CROSS_ENTROPY)
    assert "screened" in str(gone["reason"])


def test_without_a_model_there_is_no_cross_entropy(tmp_path: Path) -> None:
    (row,) = measure_all([written(tmp_path, 1, "a")], ground(), tmp_path / "latents.h5", MODEL)
    assert all(math.isnan(float(str(row[name]))) for name in CROSS_ENTROPY)
    assert "cross-entropy was left out" in str(row["reason"])
