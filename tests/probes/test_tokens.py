"""Closed kinds on tokens: which tokens are learned from, judged, and where that is written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.numerics.metrics import auroc
from sdlms.probes.controls import random_direction
from sdlms.probes.logistic import LogisticProbe
from sdlms.probes.mass_mean import MassMeanProbe
from sdlms.probes.question import LEARNING, Question, ask
from sdlms.probes.tokens import fit_tokens
from sdlms.storage.scores import Scores
from tests.probes.questions import LAYERS, question_of, some_acts, tasks_of, tokens_of

KINDS = ["logistic", "mass_mean", "shuffled_labels", "random_direction"]


def flat(acts: Acts, layer: int) -> Tensor:
    """`[example, unit]`, every token of every document, in order."""
    one = acts.select_layers(layer).realize()
    return torch.cat([x[:n] for x, n in zip(one.tensor, one.lengths.tolist(), strict=True)])


def asked(labels: str) -> Question:
    acts = some_acts(24, shift=1.0)
    labelled = tasks_of(acts, "abc") if labels == "tasks" else tokens_of(acts)
    return ask(acts, labelled, (3, 8), by_token=True)


@pytest.mark.parametrize("labels", ["tasks", "tokens"])
@pytest.mark.parametrize("kind", ["logistic", "mass_mean", "shuffled_labels"])
def test_every_member_learns_from_its_tokens_and_judges_those_it_is_tested_on(
    tmp_path: Path, kind: str, labels: str
) -> None:
    question = asked(labels)
    n_members, n_examples = len(question.members), len(question.usable)
    with Scores(tmp_path / "s.h5", KINDS, n_members, n_examples) as scores:
        blank = np.full(n_examples, 7, dtype=np.float32)
        for member in range(n_members):
            scores.write(kind, member, 0, blank)
        found = list(fit_tokens(kind, question, scores, threads=2))
        assert [each.member for each in found] == list(range(n_members))
        member = 0
        for layer in LAYERS:
            x = flat(question.acts, layer)
            for row in range(2):
                learned = question.examples_with(row, *LEARNING)
                tested = question.tested_examples(row)
                truths = question.shuffled_truth(row) if "shuf" in kind else question.truth
                for truth in truths:
                    probe_class = MassMeanProbe if kind == "mass_mean" else LogisticProbe
                    y = torch.from_numpy(truth[learned])
                    alone = probe_class().fit(x[learned], y).predict(x[tested]).numpy()
                    judged = scores.read(kind, member)
                    np.testing.assert_allclose(judged[tested], alone, atol=2e-4)
                    rest = np.setdiff1d(np.arange(n_examples), tested)
                    assert (judged[rest] == 7).all()
                    assert found[member].converged
                    member += 1


@pytest.mark.parametrize("labels", ["tasks", "tokens"])
def test_a_random_direction_judges_tokens(tmp_path: Path, labels: str) -> None:
    question = asked(labels)
    n_labels = len(question.names)
    with Scores(tmp_path / "s.h5", KINDS, len(question.members), len(question.usable)) as scores:
        found = list(fit_tokens("random_direction", question, scores, threads=1))
        assert all(each.probe is None for each in found)
        x = flat(question.acts, LAYERS[1])
        along = (x @ random_direction(x.shape[1], LAYERS[1], 8)).numpy()
        learned, tested = question.examples_with(1, *LEARNING), question.tested_examples(1)
        for label, truth in enumerate(question.truth):
            judged = scores.read("random_direction", 3 * n_labels + label)
            assert auroc(judged[learned], truth[learned]) >= 0.5
            expected = auroc(along[tested], truth[tested])
            assert auroc(judged[tested], truth[tested]) in (
                pytest.approx(expected), pytest.approx(1 - expected),
            )  # fmt: skip


def test_a_block_without_a_usable_token_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlms.probes import stream

    monkeypatch.setattr(stream, "BLOCK_EXAMPLES", 1)  # every document is a block
    question = question_of(some_acts(20), by_token=True)
    usable = question.usable.copy()
    usable[: question.offsets[3]] = False
    hollow = Question(question.acts, question.labelled, question.seeds, True, usable)
    with Scores(tmp_path / "s.h5", KINDS, len(question.members), len(usable)) as scores:
        for kind in KINDS:
            assert len(list(fit_tokens(kind, hollow, scores, threads=1))) == len(question.members)
