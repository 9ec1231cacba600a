"""A sweep: kinds in turn, each once, what it says of its endings, and the rows it ends in."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.probes.controls import CONTROLS
from sdlms.probes.kinds import KINDS
from sdlms.probes.members import Members
from sdlms.probes.question import LEARNING, Question
from sdlms.probes.saving import load_probe
from sdlms.probes.sweep import Sweep, check_finite
from sdlms.storage.scores import Scores
from tests.probes.questions import LAYERS, question_of, some_acts, workshop

CHOSEN = ["logistic", "mlp"]


def sweep_of(folder: Path, question: Question, scores: Scores) -> Sweep:
    return Sweep(
        question=question,
        pooled=None if question.by_token else question.acts.mean_pool().realize(),
        scores=scores,
        folder=folder / "probes",
        workshop=workshop(folder),
        threads=1,
        seed=0,
    )


def scores_for(folder: Path, question: Question) -> Scores:
    everything = [*KINDS, *CONTROLS]
    return Scores(folder / "s.h5", everything, len(question.members), len(question.usable))


@pytest.mark.parametrize("by_token", [False, True])
def test_a_sweep_ends_in_one_judgement_per_member_and_kind(tmp_path: Path, by_token: bool) -> None:
    question = question_of(some_acts(20, shift=2.0), by_token=by_token)
    with scores_for(tmp_path, question) as scores:
        sweep = sweep_of(tmp_path, question, scores)
        for kind in (*CHOSEN, *CONTROLS):
            sweep.run(kind)
            assert scores.is_done(kind)
        judged = list(sweep.judged([*CHOSEN, *CONTROLS]))
        rows = list(sweep.predictions(CHOSEN))
    assert [(j.layer, j.kind, j.seed, j.label) for j in judged] == [
        (layer, kind, seed, "b")
        for layer in LAYERS
        for kind in (*CHOSEN, *CONTROLS)
        for seed in (3, 8)
    ]
    for each in judged:
        row = question.seeds.index(each.seed)
        tested = question.tested_examples(row)
        assert np.array_equal(each.documents, question.documents[tested])
        truths = question.shuffled_truth(row) if "shuf" in each.kind else question.truth
        assert np.array_equal(each.targets, truths[0][tested])
        learned = question.examples_with(row, *LEARNING)
        assert (each.n_train < len(learned)) == (each.kind == "mlp")
    n_tested = sum(len(question.tested_examples(row)) for row in range(2))
    assert len(rows) == len(LAYERS) * len(CHOSEN) * n_tested
    if by_token:
        assert question.acts.mask is not None
        for line in rows:
            document = question.acts.document_ids.index(str(line["document_id"]))
            assert question.acts.mask[document, int(line["token"] or 0)]
    saved = sorted(path.name for path in (tmp_path / "probes").iterdir())
    assert saved == sorted(CHOSEN)  # controls are not kept


def test_what_is_done_is_not_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = question_of(some_acts(20))
    with scores_for(tmp_path, question) as scores:
        sweep = sweep_of(tmp_path, question, scores)
        sweep.run("mass_mean")
        monkeypatch.setattr(Sweep, "_closed", None)
        with caplog.at_level(logging.INFO):
            sweep.run("mass_mean")
    assert "mass_mean: done before the interruption" in caplog.text


def test_names_of_labels_become_names_of_files(tmp_path: Path) -> None:
    acts = some_acts(20)
    names = ["../up", "é/" + "x" * 99, "a b"]
    from sdlms.probes.labels import labelled_by_task
    from sdlms.probes.question import ask

    labelled = labelled_by_task([names[i % 3] for i in range(20)])
    question = ask(acts, labelled, (0,), by_token=False)
    with scores_for(tmp_path, question) as scores:
        sweep_of(tmp_path, question, scores).run("mass_mean")
    folder = tmp_path / "probes/mass_mean"
    found = sorted(path.name for path in folder.glob("layer_1*.json"))
    assert found[0] == "layer_1_seed_0_label_0_.._up.json"
    assert found[1] == "layer_1_seed_0_label_1_a_b.json"
    assert found[2].startswith("layer_1_seed_0_label_2___xxx") and len(found[2]) < 100
    assert len(list(folder.iterdir())) == 2 * 2 * 3
    load_probe(folder / found[0].removesuffix(".json"))


def test_fits_that_do_not_converge_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlms.probes import logistic_streamed

    monkeypatch.setattr(logistic_streamed, "MAX_PASSES", 3)
    question = question_of(some_acts(20, shift=1.0), by_token=True)
    with scores_for(tmp_path, question) as scores:
        sweep = sweep_of(tmp_path, question, scores)
        with caplog.at_level(logging.WARNING):
            sweep.run("logistic")
        assert [each.converged for each in sweep.judged(["logistic"])] == [False] * 4
    assert "logistic: the solver gave up before its tolerance in 4 of 4 fits" in caplog.text


def test_epochs_that_ran_out_are_told_from_a_loss_that_is_no_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    from sdlms.probes.batches import ActsBatches
    from sdlms.probes.lesson import Lesson
    from sdlms.probes.mlp import MlpNetwork, MlpSettings
    from sdlms.probes.sweep import _endings, _lost
    from sdlms.probes.training import train

    question = question_of(some_acts(20, shift=1.0))
    data = ActsBatches(question.acts.mean_pool().realize())
    network = MlpNetwork.scaled_to(data, np.ones((2, 20), dtype=bool), MlpSettings(max_epochs=3))
    trained = train(network, Lesson(data, question.targets, question.split))
    assert _endings(trained) == (
        "mlp: 0 of 4 probes stopped after 10 epochs without a better validation loss, "
        "4 at the limit of 3 epochs (converged = no)"
    )
    converged = np.array([True, True, False, False])
    losses = np.array([0.5, 0.5, 0.5, math.inf])
    some = replace(trained, converged=converged, best_loss=losses)
    assert _endings(some).endswith(
        "mlp: 2 of 4 probes stopped after 10 epochs without a better validation loss, "
        "1 at the limit of 3 epochs (converged = no)"
    )
    assert _lost(some) == (
        "mlp: the validation loss of 1 of 4 probes never was a number; what they say is nan "
        "(converged = no)"
    )
    all_stopped = replace(trained, converged=np.ones(4, dtype=bool), best_loss=np.ones(4))
    assert _endings(all_stopped).endswith("a better validation loss")
    assert _lost(all_stopped) == ""


def test_probes_that_never_had_a_loss_are_warned_of_and_say_nan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlms.probes.scoring import METRICS, best_lines, metrics_row
    from sdlms.probes.training import Trainer

    losses = Trainer._validation_losses

    def lost_at_layer_1(self: Trainer, members: Members) -> torch.Tensor:
        found = losses(self, members)
        return torch.where(torch.from_numpy(members.layer == 0), math.nan, found)

    monkeypatch.setattr(Trainer, "_validation_losses", lost_at_layer_1)
    question = question_of(some_acts(20, shift=2.0))
    with scores_for(tmp_path, question) as scores:
        sweep = sweep_of(tmp_path, question, scores)
        with caplog.at_level(logging.WARNING):
            sweep.run("mlp")
        rows = [metrics_row(each) for each in sweep.judged(["mlp"])]
        said = {row["probability"] for row in sweep.predictions(["mlp"]) if row["layer"] == 1}
    assert "mlp: the validation loss of 2 of 4 probes never was a number" in caplog.text
    assert said == {"nan"}
    for row in rows:
        assert all(math.isnan(float(row[name] or 0)) == (row["layer"] == 1) for name in METRICS)
        assert row["layer"] == 4 or row["converged"] == "no"
    (line,) = best_lines(rows)
    assert line.endswith("at layer 4, its best")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_layer_and_document_of_what_is_no_number_are_named(value: float) -> None:
    x = torch.zeros(5, 2, 3)
    x[3, 1, 2] = x[4, 1, 0] = value
    acts = Acts(x, "blh", layers=(2, 6), documents=[f"d{i}" for i in range(5)])
    with pytest.raises(UserError, match="layer 6, document d3: an activation is NaN or infinite"):
        check_finite(acts)
    check_finite(acts.select_layers([2]))
