"""Closed kinds and controls on one vector per document: many small fits, side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.probes.controls import (
    RANDOM_DIRECTION,
    SHUFFLED_LABELS,
    oriented,
    random_direction,
)
from sdlms.probes.logistic import LogisticProbe
from sdlms.probes.mass_mean import MassMeanProbe
from sdlms.probes.question import LEARNING, Question
from sdlms.probes.workers import spread
from sdlms.storage.scores import Scores

ClosedProbe = LogisticProbe | MassMeanProbe


@dataclass(frozen=True, eq=False)
class Job:
    """One probe to fit.

    Attributes:
        member: its number among layers x seeds x labels.
        layer: of the model.
        seed: value of the seed.
        x: `[document, unit]` float32.
        truth: `[document]` bool.
        train: indices of the documents to fit on.
    """

    member: int
    layer: int
    seed: int
    x: Tensor
    truth: NDArray[np.bool_]
    train: NDArray[np.int64]

    def examples(self) -> tuple[Tensor, Tensor]:
        """What it is fitted on."""
        return self.x[torch.from_numpy(self.train)], torch.from_numpy(self.truth[self.train])


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe that was fitted, and has judged.

    Attributes:
        member: its number.
        probe: None for a direction that was drawn.
        converged: whether its solver came to its end.
    """

    member: int
    probe: ClosedProbe | None
    converged: bool


def fit_vectors(
    kind: str, question: Question, pooled: Acts, threads: int, scores: Scores
) -> Iterator[Fitted]:
    """Fit a kind on every layer, seed and label, and write what it says of every document.

    A few layers' activations are in memory at a time.

    Args:
        kind: `logistic`, `mass_mean` or one of the controls.
        question: what is asked of documents.
        pooled: `blh` of its documents.
        threads: fits at once, each on one thread.
        scores: where probabilities go.

    Yields:
        In order of the members.
    """
    yield from spread(partial(_fit, kind, scores), _jobs(kind, question, pooled), threads)


def _jobs(kind: str, question: Question, pooled: Acts) -> Iterator[Job]:
    """Layer by layer, seed by seed, label by label."""
    member = 0
    rows = range(len(question.seeds))
    shuffle = kind == SHUFFLED_LABELS
    truths = [question.shuffled_truth(row) if shuffle else question.truth for row in rows]
    for layer, acts in pooled.iter_layers():
        for row, seed in enumerate(question.seeds):
            train = question.documents_with(row, *LEARNING)
            for truth in truths[row]:
                yield Job(member, layer, seed, acts.tensor, truth, train)
                member += 1


def _fit(kind: str, scores: Scores, job: Job) -> Fitted:
    """One job."""
    if kind == RANDOM_DIRECTION:
        along = (job.x @ random_direction(job.x.shape[1], job.layer, job.seed)).numpy()
        scores.write(kind, job.member, 0, oriented(along, job.truth, job.train))
        return Fitted(job.member, None, converged=True)
    if kind == "mass_mean":
        probe: ClosedProbe = MassMeanProbe().fit(*job.examples())
        converged = True
    else:
        logistic = LogisticProbe().fit(*job.examples())
        probe, converged = logistic, logistic.result is not None and logistic.result.converged
    scores.write(kind, job.member, 0, probe.predict(job.x).numpy())
    return Fitted(job.member, probe, converged)
