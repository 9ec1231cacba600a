"""Stacks of iterative kinds: what is written where, and what a resumed training rests on."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.acts.handle import Acts
from sdlms.probes import stacks
from sdlms.probes.kinds import KINDS
from sdlms.probes.question import Question
from sdlms.probes.stacks import _write, fit_stack, probe_bytes
from sdlms.probes.trained import Predictions, Trained
from sdlms.probes.training import Trainer
from sdlms.storage.scores import Scores
from tests.probes.questions import LAYERS, question_of, some_acts, workshop

ITERATIVE = [name for name, kind in KINDS.items() if kind.iterative]


def scores_of(folder: Path, question: Question, blank: float = 7) -> Scores:
    n_members, n_examples = len(question.members), len(question.usable)
    scores = Scores(folder / "scores.h5", ITERATIVE, n_members, n_examples)
    for kind in ITERATIVE:
        for member in range(n_members):
            scores.write(kind, member, 0, np.full(n_examples, blank, dtype=np.float32))
    return scores


def assert_members_judge_as_they_predict(
    kind: str, question: Question, trained: Trained, scores: Scores
) -> None:
    """Each member's probe alone, on the activations of its own layer."""
    members = question.members
    for member in range(len(members)):
        acts = question.acts.select_layers(LAYERS[members.layer[member]])
        read = acts if KINDS[kind].needs_tokens or question.by_token else acts.mean_pool()
        found = trained.probe(member).predict(read).numpy()
        if question.by_token:
            rows = zip(found, question.acts.lengths.tolist(), strict=True)
            found = np.concatenate([row[:n] for row, n in rows])
        tested = question.tested_examples(int(members.seed[member]))
        judged = scores.read(kind, member)[tested]
        np.testing.assert_allclose(judged, found[tested], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ITERATIVE)
def test_documents_are_judged_at_their_places(tmp_path: Path, kind: str) -> None:
    question = question_of(some_acts(shift=2.0), classes="abc")
    acts = question.acts if KINDS[kind].needs_tokens else question.acts.mean_pool().realize()
    with scores_of(tmp_path, question) as scores:
        trained = fit_stack(kind, question, acts, scores, workshop(tmp_path), seed=0)
        assert_members_judge_as_they_predict(kind, question, trained, scores)
        never = np.setdiff1d(np.arange(18), question.tested)
        assert len(never)
        assert all((scores.read(kind, m)[never] == 7).all() for m in range(len(question.members)))


def test_tokens_are_judged_at_their_places(tmp_path: Path) -> None:
    question = question_of(some_acts(20, shift=2.0), by_token=True)
    with scores_of(tmp_path, question) as scores:
        trained = fit_stack("mlp", question, question.acts, scores, workshop(tmp_path), seed=0)
        assert_members_judge_as_they_predict("mlp", question, trained, scores)
        for member in range(len(question.members)):
            judged = scores.read("mlp", member)
            assert (judged[~question.usable] == 7).all()


def test_documents_in_any_order_are_written_at_their_places(tmp_path: Path) -> None:
    question = question_of(some_acts(20), seeds=(0,))
    order = np.random.default_rng(0).permutation(20)[:13]
    values = np.stack([order + 100.0 * member for member in range(2)]).astype(np.float32)
    with scores_of(tmp_path, question) as scores:
        _write("mlp", question, Predictions(order, None, values), scores)
        for member in range(2):
            found = scores.read("mlp", member)
            assert np.array_equal(found[order], order + 100.0 * member)
            assert (np.delete(found, order) == 7).all()


def test_tokens_in_any_order_are_written_at_their_places(tmp_path: Path) -> None:
    question = question_of(some_acts(20), seeds=(0,), by_token=True)
    examples = np.random.default_rng(0).permutation(len(question.usable))[:40]
    documents = question.documents[examples]
    part = Predictions(
        documents,
        examples - question.offsets[documents],
        np.stack([examples, -examples]).astype(np.float32),
    )
    with scores_of(tmp_path, question) as scores:
        _write("mlp", question, part, scores)
        for member, sign in enumerate((1, -1)):
            found = scores.read("mlp", member)
            assert np.array_equal(found[examples], sign * examples)
            assert (np.delete(found, examples) == 7).all()


@pytest.mark.parametrize("by_token", [False, True])
def test_a_seed_learns_the_same_whatever_other_seeds_are_asked_for(
    tmp_path: Path, by_token: bool
) -> None:
    found = []
    for seeds in ((1,), (0, 1, 2)):
        question = question_of(some_acts(30, shift=2.0), seeds, by_token=by_token)
        acts = question.acts if by_token else question.acts.mean_pool().realize()
        folder = tmp_path / str(len(seeds))
        folder.mkdir()
        with scores_of(folder, question) as scores:
            trained = fit_stack("mlp", question, acts, scores, workshop(folder), seed=0)
            row = seeds.index(1)
            tested = question.tested_examples(row)
            members = np.flatnonzero(question.members.seed == row).tolist()
            found.append([scores.read("mlp", member)[tested] for member in members])
        assert np.isfinite(trained.best_loss).all()
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_what_a_seed_tests_on_does_not_scale_what_it_reads(tmp_path: Path) -> None:
    found = []
    for factor in (1.0, 10.0):
        question = question_of(some_acts(30, shift=2.0), (1, 2))
        pooled = question.acts.mean_pool().realize()
        x = pooled.tensor.clone()
        x[question.tested_by(0)] *= factor
        acts = Acts(x, "blh", layers=LAYERS)
        (folder := tmp_path / str(factor)).mkdir()
        with scores_of(folder, question) as scores:
            trained = fit_stack("mlp", question, acts, scores, workshop(folder), seed=0)
        members = np.flatnonzero(question.members.seed == 0).tolist()
        found.append([trained.tensors_of(member) for member in members])
    for one, other in zip(*found, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=1e-4, err_msg=name)
        assert np.array_equal(one["mean"], other["mean"])
        assert np.array_equal(one["std"], other["std"])


@pytest.mark.parametrize("kept_seconds", [0.0, 1e9])
def test_a_training_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_seconds: float
) -> None:
    monkeypatch.setattr(stacks, "CHECKPOINT_SECONDS", kept_seconds)
    question = question_of(some_acts(shift=2.0))
    with scores_of(tmp_path, question) as scores:
        whole = fit_stack("attention", question, question.acts, scores, workshop(tmp_path), 0)
        expected = [scores.read("attention", member) for member in range(len(question.members))]
    (tmp_path / "scores.h5").unlink()
    (tmp_path / "attention.safetensors").unlink(missing_ok=True)
    run_epoch, epochs = Trainer.run_epoch, []

    def failing(self: Trainer) -> None:
        epochs.append(self.epoch)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", failing)
    with scores_of(tmp_path, question) as scores:
        for _ in range(2):
            try:
                again = fit_stack(
                    "attention", question, question.acts, scores, workshop(tmp_path), 0
                )
            except KeyboardInterrupt:
                assert (tmp_path / "attention.safetensors").exists() == (kept_seconds == 0)
        found = [scores.read("attention", member) for member in range(len(question.members))]
    assert epochs[4] == (3 if kept_seconds == 0 else 0)
    assert np.array_equal(np.stack(found), np.stack(expected))
    assert np.array_equal(again.history, whole.history, equal_nan=True)
    for name, param in whole.params.items():
        assert np.array_equal(param.numpy(), again.params[name].numpy())


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_a_probe_takes_on_disk_is_not_underrated(tmp_path: Path, kind: str) -> None:
    from sdlms.probes.saving import save_probe

    acts = some_acts(12).select_layers(LAYERS[0]).realize()
    x = acts if KINDS[kind].needs_tokens else acts.mean_pool()
    probe = KINDS[kind].probe_class()().fit(x, np.arange(12) % 2 == 0)  # type: ignore[attr-defined]
    save_probe(tmp_path / "probe", probe)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written <= probe_bytes(kind, 5) <= 12 * written
