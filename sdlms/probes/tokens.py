"""Closed kinds and controls where every token is an example: read in passes, never held at once."""

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
from sdlms.probes.logistic_streamed import fit_logistic_streamed
from sdlms.probes.mass_mean import MassMeanProbe
from sdlms.probes.question import LEARNING, Question
from sdlms.probes.stream import ExampleStream
from sdlms.probes.vectors import ClosedProbe, Fitted
from sdlms.probes.workers import spread
from sdlms.storage.scores import Scores


@dataclass(frozen=True, eq=False)
class Job:
    """One layer and one seed; all labels share the passes.

    Attributes:
        first_member: number of the first label's probe among layers x seeds x labels.
        acts: of the layer, `bsh`.
        row: of the seed in the split.
    """

    first_member: int
    acts: Acts
    row: int


def fit_tokens(kind: str, question: Question, scores: Scores, threads: int) -> Iterator[Fitted]:
    """Fit a kind on every layer, seed and label, and write what it says of the seed's test tokens.

    Args:
        kind: `logistic`, `mass_mean` or one of the controls.
        question: what is asked of tokens.
        scores: where probabilities go.
        threads: layers at once, each on one thread.

    Yields:
        In order of the members.
    """
    for fitted in spread(partial(_fit, kind, question, scores), _jobs(question), threads):
        yield from fitted


def _jobs(question: Question) -> Iterator[Job]:
    """Layer by layer, seed by seed."""
    number = 0
    for layer in question.layers:
        for row in range(len(question.seeds)):
            yield Job(number, question.acts.select_layers(layer), row)
            number += len(question.names)


def _fit(kind: str, question: Question, scores: Scores, job: Job) -> list[Fitted]:
    """The probes of one job."""
    seed = question.seeds[job.row]
    members = range(job.first_member, job.first_member + len(question.names))
    if kind == RANDOM_DIRECTION:
        _judge_direction(question, scores, job, seed)
        return [Fitted(member, None, converged=True) for member in members]
    truth = question.shuffled_truth(job.row) if kind == SHUFFLED_LABELS else question.truth
    learned = _Tokens(question, job.acts, question.documents_with(job.row, *LEARNING))
    if kind == "mass_mean":
        probes: list[ClosedProbe] = [_mass_mean(learned, row) for row in truth]
        converged = [True] * len(probes)
    else:
        fits = fit_logistic_streamed(partial(learned.blocks, truth), job.acts.n_units)
        probes = [LogisticProbe(result=fit) for fit in fits]
        converged = [fit.converged for fit in fits]
    tested = _Tokens(question, job.acts, question.tested_by(job.row))
    for member, probe in zip(members, probes, strict=True):
        for x, examples in tested.rows():
            scores.write_at(kind, member, examples, probe.predict(x).numpy())
    return [Fitted(*each) for each in zip(members, probes, converged, strict=True)]


class _Tokens:
    """The usable tokens of some documents of one layer, block by block."""

    def __init__(self, question: Question, acts: Acts, documents: NDArray[np.int64]) -> None:
        self._question, self._documents = question, documents
        self.acts = acts.slice_batch(documents)
        self._stream = ExampleStream(self.acts)

    @property
    def usable(self) -> Tensor:
        """`[document, token]` bool, those that are read."""
        return self.padded(self._question.usable)

    def padded(self, values: NDArray[np.bool_]) -> Tensor:
        """What belongs to every example, as `[document, token]` of these documents."""
        lengths = self.acts.lengths
        inside = np.arange(lengths.max()) < lengths[:, None]
        found = np.zeros(inside.shape, dtype=np.bool_)
        firsts = self._question.offsets[self._documents]
        numbers = firsts[:, None] + np.arange(lengths.max())
        found[inside] = values[numbers[inside]]
        return torch.from_numpy(found)

    def rows(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """`[token, unit]` float32 and the number of each example, ascending."""
        for block in self._stream.blocks():
            assert block.tokens is not None
            documents = self._documents[block.documents.numpy()]
            examples = self._question.offsets[documents] + block.tokens.numpy()
            usable = self._question.usable[examples]
            yield block.x[torch.from_numpy(usable)], examples[usable]

    def blocks(self, truth: NDArray[np.bool_]) -> Iterator[tuple[Tensor, Tensor]]:
        """`[token, unit]` and, of `truth [label, example]`, `[token, label]`."""
        for x, examples in self.rows():
            yield x, torch.from_numpy(np.ascontiguousarray(truth[:, examples].T))


def _mass_mean(learned: _Tokens, truth: NDArray[np.bool_]) -> MassMeanProbe:
    """The line between the means of one label's tokens."""
    return MassMeanProbe().fit(learned.acts, learned.padded(truth), learned.usable)


def _judge_direction(question: Question, scores: Scores, job: Job, seed: int) -> None:
    """Write what a random direction says, turned for each label as its training tokens have it."""
    direction = random_direction(job.acts.n_units, job.acts.layers[0], seed)
    everything = _Tokens(question, job.acts, np.arange(question.acts.n_documents))
    found = np.zeros(len(question.usable), dtype=np.float32)
    for x, examples in everything.rows():
        found[examples] = (x @ direction).numpy()
    train = question.examples_with(job.row, *LEARNING)
    for label, truth in enumerate(question.truth):
        turned = oriented(found, truth, train)
        scores.write(RANDOM_DIRECTION, job.first_member + label, 0, turned)
