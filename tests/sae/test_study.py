"""A sweep over one subject: what is recorded, what it takes on disk, what is known of members."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.sae.documents import Budgets, documents_by_role
from sdlms.sae.ground import document_rows, table_bytes
from sdlms.sae.members import Member, members_of
from sdlms.sae.preparation import prepare
from sdlms.sae.pupil import Pupil
from sdlms.sae.study import Study
from sdlms.sae.subject import Subject
from sdlms.sae.sweep import Place, pupils_of, saved
from sdlms.sae.training import Course, Training
from tests.acts.samples import rows_with
from tests.sae.recipes import recipe
from tests.sae.sweeps import CPU, sparse_acts

MODEL = {"name": "tiny", "commit": None, "revision": None, "reinit_seed": None, "weights": {}}
N_DOCUMENTS, LENGTH = 40, 30
LAYERS = [1, 3]


def study(seeds: tuple[int, ...] = (0, 1), scored: int = 100, width: int = 32) -> Study:
    mask = np.arange(N_DOCUMENTS * LENGTH) % LENGTH > 0
    rows = rows_with([LENGTH] * N_DOCUMENTS, mask)
    counts = np.full(N_DOCUMENTS, LENGTH - 1)
    budgets = Budgets(600, 120, scored)
    documents = documents_by_role(counts, rows.document_tasks, 0, budgets)
    members = members_of(recipe("standard", width=width), LAYERS, (0.1, 0.5), seeds)
    return Study(Subject(MODEL, "resid_post", LAYERS, 8, rows), [], documents, members)


def trained(own: Study, checkpoint: Path, n_steps: int = 60) -> list[Pupil]:
    prepared = prepare(sparse_acts(), own.documents, 64, 0)
    pupils = pupils_of(own.members, prepared, Place(torch.float32, CPU, "auto"))
    course = Course(n_steps, 0)
    training = Training(prepared, pupils, course, CPU)
    training.run(checkpoint)
    return pupils


def test_inputs_are_recorded() -> None:
    resolved = study().resolved("sae-lens 6.0")
    assert (resolved["acts"], resolved["site"], resolved["layers"]) == (None, "resid_post", LAYERS)
    assert (resolved["d_in"], resolved["width"], resolved["expansion"]) == (8, 32, 4.0)
    names = ["l1_0.1_seed0", "l1_0.1_seed1", "l1_0.5_seed0", "l1_0.5_seed1"]
    assert (resolved["members"], resolved["steps"]) == (names, 60)


def test_the_log_says_what_will_be_trained() -> None:
    first, second = study().description()
    assert first.startswith("model tiny: resid_post at layers 1, 3; ")
    assert first.endswith(" documents to train on, 8 held out")
    assert second == "8 members (standard, 8 units, 32 latents), 60 steps of 64 tokens"
    own = study((0,), width=1)
    one = Study(
        replace(own.subject, layers=[1]), [], own.documents,
        [Member(1, "one", replace(own.members[0].recipe, n_steps=1, batch_size=1))],
    )  # fmt: skip
    first, second = one.description()
    assert first.startswith("model tiny: resid_post at layer 1; ")
    assert second == "1 member (standard, 8 units, 1 latent), 1 step of 1 token"


def test_each_document_with_tokens_has_one_role() -> None:
    own = study()
    rows = list(document_rows(own.subject.rows, own.documents))
    assert [row["document_id"] for row in rows] == own.subject.rows.document_ids
    assert {row["split"] for row in rows} == {"train", "validation", "unused"}
    assert all(row["tokens"] == LENGTH - 1 for row in rows)
    for row in rows:
        assert row["cross_entropy"] <= row["measured"] <= (row["split"] == "validation")
    for name, most in (("measured", 120), ("cross_entropy", 100)):
        n_tokens = sum(int(str(row["tokens"])) for row in rows if row[name])
        assert most - LENGTH < n_tokens <= most


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (4, 5, 6)])
def test_each_member_is_compared_with_the_next_seed(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    own = study(seeds)
    found = own.saved(tmp_path, trained(own, tmp_path / "checkpoint"))
    assert [(each.layer, each.name) for each in found] == [(m.layer, m.name) for m in own.members]
    for each in found:
        partner = {s: t for s, t in zip(seeds, [*seeds[1:], seeds[0]], strict=True) if s != t}
        stem, _, seed = each.name.rpartition("seed")
        assert each.partner == (f"{stem}seed{partner[int(seed)]}" if partner else "")


def test_facts_of_a_member(tmp_path: Path) -> None:
    own = study()
    pupils = trained(own, tmp_path / "checkpoint")
    pupils[0].progress.ended = "screened"
    first, second, *_ = own.saved(tmp_path, pupils)
    assert (first.is_screened, second.is_screened) == (True, False)
    assert first.folder == tmp_path / "sae/resid_post/layer_1/l1_0.1_seed0"
    assert (second.facts["steps"], second.facts["seed"], second.facts["width"]) == (60, 1, 32)
    assert (second.facts["expansion"], second.facts["selected"]) == (4.0, 0)
    assert second.facts["best_step"] == pupils[1].progress.best_step
    assert second.facts["ended"] == "all steps"


def test_what_is_written_fits_into_what_was_predicted(tmp_path: Path) -> None:
    """Two checkpoints, and the folders; a new one lies beside the old one for a moment."""
    own = study(width=2048)
    prepared = prepare(sparse_acts(), own.documents, 64, 0)
    pupils = pupils_of(own.members, prepared, Place(torch.float32, CPU, "auto"))
    course = Course(60, 0)
    training = Training(prepared, pupils, course, CPU)
    batch = next(prepared.stream.batches())
    for _ in range(4):  # weights are kept behind the warm-up
        training._step(batch)
        training._evaluate()
    training.save(tmp_path / "first")
    for pupil in pupils:
        pupil.end("enough")
    for _ in saved(tmp_path, own.subject, prepared, pupils, {}):
        pass
    weights = sum(path.stat().st_size for path in tmp_path.rglob("sae_weights.safetensors"))
    checkpoint = sum(path.stat().st_size for path in (tmp_path / "first").iterdir())
    widths = {(each.layer, each.name): 2048 for each in own.members}
    tables = table_bytes(own.subject, own.documents, widths)
    predicted = own.predicted_bytes() - tables
    assert 0.8 * predicted < 2 * checkpoint + weights < predicted


def test_what_members_are_measured_on(tmp_path: Path) -> None:
    own = study(scored=0)
    prepared = prepare(sparse_acts(), own.documents, 64, 0)
    ground = own.ground(prepared, None, CPU, 7, lambda _: None)
    assert (ground.site, list(ground.layers), ground.seed) == ("resid_post", LAYERS, 7)
    assert ground.scoring is None
    measured = [f"{d:016x}" for d in own.documents.measured]
    assert list(ground.document_ids) == measured
    assert len(ground.tokens.offsets) == len(measured) + 1
    assert ground.tokens is prepared.measured and ground.moments is prepared.moments
