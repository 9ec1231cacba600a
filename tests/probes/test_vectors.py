"""Closed kinds on one vector per document: each fit is that of the kind itself, at its place."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.numerics.metrics import auroc
from sdlms.probes.controls import random_direction
from sdlms.probes.logistic import LogisticProbe
from sdlms.probes.mass_mean import MassMeanProbe
from sdlms.probes.question import LEARNING
from sdlms.probes.vectors import fit_vectors
from sdlms.storage.scores import Scores
from tests.probes.questions import LAYERS, question_of, some_acts

KINDS = ["logistic", "mass_mean", "shuffled_labels", "random_direction"]
CLASSES = {"logistic": LogisticProbe, "mass_mean": MassMeanProbe}


@pytest.mark.parametrize("kind", ["logistic", "mass_mean"])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_member_is_fitted_on_its_own_layer_split_and_label(
    tmp_path: Path, kind: str, threads: int
) -> None:
    question = question_of(some_acts(shift=1.0), classes="abc")
    pooled = question.acts.mean_pool().realize()
    with Scores(tmp_path / "s.h5", KINDS, len(question.members), 18) as scores:
        found = list(fit_vectors(kind, question, pooled, threads, scores))
        assert [each.member for each in found] == list(range(12))
        member = 0
        for layer in LAYERS:
            x = pooled.select_layers(layer).realize().tensor
            for row in range(2):
                train = torch.from_numpy(question.documents_with(row, *LEARNING))
                for truth in question.truth:
                    alone = CLASSES[kind]().fit(x[train], torch.from_numpy(truth)[train])
                    probe = found[member].probe
                    assert probe is not None and found[member].converged
                    for name, tensor in alone.tensors().items():
                        assert torch.equal(tensor, probe.tensors()[name])
                    assert np.array_equal(scores.read(kind, member), alone.predict(x).numpy())
                    member += 1


def test_a_control_learns_the_labels_that_were_dealt(tmp_path: Path) -> None:
    question = question_of(some_acts(shift=2.0))
    pooled = question.acts.mean_pool().realize()
    with Scores(tmp_path / "s.h5", KINDS, len(question.members), 18) as scores:
        list(fit_vectors("shuffled_labels", question, pooled, 2, scores))
        x = pooled.select_layers(LAYERS[1]).realize().tensor
        train = torch.from_numpy(question.documents_with(1, *LEARNING))
        truth = torch.from_numpy(question.shuffled_truth(1)[0])
        alone = LogisticProbe().fit(x[train], truth[train])
        assert np.array_equal(scores.read("shuffled_labels", 3), alone.predict(x).numpy())


def test_a_random_direction_is_the_same_for_all_labels_but_for_its_sign(tmp_path: Path) -> None:
    question = question_of(some_acts(shift=2.0), classes="abc")
    pooled = question.acts.mean_pool().realize()
    with Scores(tmp_path / "s.h5", KINDS, len(question.members), 18) as scores:
        found = list(fit_vectors("random_direction", question, pooled, 2, scores))
        assert all(each.probe is None and each.converged for each in found)
        x = pooled.select_layers(LAYERS[0]).realize().tensor
        for row, seed in enumerate(question.seeds):
            along = (x @ random_direction(x.shape[1], LAYERS[0], seed)).numpy()
            train = question.documents_with(row, *LEARNING)
            for label, truth in enumerate(question.truth):
                judged = scores.read("random_direction", row * 3 + label)
                assert auroc(judged[train], truth[train]) >= 0.5
                order = np.argsort(judged, kind="stable")
                sorted_along = along[order]
                assert (np.diff(sorted_along) >= 0).all() or (np.diff(sorted_along) <= 0).all()


def test_few_layers_are_read_at_a_time(tmp_path: Path) -> None:
    """Activations of a layer are made when a worker comes free, not all at the start."""
    question = question_of(some_acts(shift=1.0), seeds=(1,))
    pooled = question.acts.mean_pool().realize()
    read: list[int] = []
    iter_layers = pooled.iter_layers

    class Watched:
        def iter_layers(self) -> object:
            for layer, acts in iter_layers():
                read.append(layer)
                yield layer, acts

    with Scores(tmp_path / "s.h5", KINDS, len(question.members), 18) as scores:
        fits = fit_vectors("logistic", question, Watched(), 1, scores)  # type: ignore[arg-type]
        assert read == []
        assert next(fits).member == 0
        fits.close()  # type: ignore[attr-defined]
    assert len(read) <= 2
