"""Every kind of probe on every layer, seed and label: fit, judge, save; kind by kind.

A sweep that was killed goes on with the kind it was at, and where that trains epoch by epoch, with
its last whole epoch.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.numerics.splits import TRAIN
from sdlms.probes.controls import CONTROLS, SHUFFLED_LABELS
from sdlms.probes.kinds import KINDS
from sdlms.probes.question import LEARNING, Question
from sdlms.probes.saving import save_probe
from sdlms.probes.scoring import Judged, prediction_rows
from sdlms.probes.stacks import Workshop, fit_stack
from sdlms.probes.tokens import fit_tokens
from sdlms.probes.trained import Trained
from sdlms.probes.vectors import fit_vectors
from sdlms.progress import LOGGER, Progress
from sdlms.storage.scores import Scores
from sdlms.storage.tables import Cell


@dataclass(frozen=True, eq=False)
class Sweep:
    """One question, and all that is needed to answer it.

    Attributes:
        question: what is asked.
        pooled: `blh` of its documents, one vector each; None where tokens are judged.
        scores: where probabilities go.
        folder: where probes are saved.
        workshop: where stacks are trained.
        threads: closed fits at once.
        seed: of the order in which stacks read documents.
    """

    question: Question
    pooled: Acts | None
    scores: Scores
    folder: Path
    workshop: Workshop
    threads: int
    seed: int

    def run(self, kind: str) -> None:
        """Fit a kind, or a control, unless an earlier try did."""
        if self.scores.is_done(kind):
            LOGGER.info(f"{kind}: done before the interruption")
            return
        iterative = kind in KINDS and KINDS[kind].iterative
        self.scores.finish(kind, self._stack(kind) if iterative else self._closed(kind))

    def _closed(self, kind: str) -> list[bool]:
        """Many small fits; whether each converged."""
        converged = []
        fits = (
            fit_tokens(kind, self.question, self.scores, self.threads)
            if self.pooled is None
            else fit_vectors(kind, self.question, self.pooled, self.threads, self.scores)
        )
        with Progress(kind, len(self.question.members), "probes") as progress:
            for fitted in fits:
                converged.append(fitted.converged)
                if fitted.probe is not None and kind not in CONTROLS:
                    save_probe(self._stem(kind, fitted.member), fitted.probe)
                progress.advance(1)
        if n_open := converged.count(False):
            LOGGER.warning(
                f"{kind}: the solver gave up before its tolerance in {n_open} of "
                f"{len(converged)} fits (converged = no in probe.csv)"
            )
        return converged

    def _stack(self, kind: str) -> list[bool]:
        """One stack; whether each member stopped before the limit of epochs."""
        acts = self.question.acts
        if self.pooled is not None and not KINDS[kind].needs_tokens:
            acts = self.pooled
        trained = fit_stack(kind, self.question, acts, self.scores, self.workshop, self.seed)
        for member in range(len(trained.members)):
            save_probe(self._stem(kind, member), trained.probe(member))
        LOGGER.info(_endings(trained))
        if lost := _lost(trained):
            LOGGER.warning(lost)
        return [bool(each) for each in trained.converged]

    def _stem(self, kind: str, member: int) -> Path:
        """Where a probe is saved, endings left out."""
        members = self.question.members
        label = int(members.label[member])
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.question.names[label])[:60]
        layer = self.question.layers[members.layer[member]]
        seed = members.seeds[members.seed[member]]
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"layer_{layer}_seed_{seed}_label_{label}_{name}"

    def judged(self, kinds: Sequence[str]) -> Iterator[Judged]:
        """What each probe says of the examples that its seed tests on, layer by layer."""
        members = self.question.members
        converged = {kind: self.scores.converged(kind) for kind in kinds}
        for row, layer in enumerate(self.question.layers):
            for kind in kinds:
                for member in np.flatnonzero(members.layer == row).tolist():
                    yield self._judged(kind, member, layer, bool(converged[kind][member]))

    def predictions(self, kinds: Sequence[str]) -> Iterator[dict[str, Cell]]:
        """The rows of `predictions.csv`."""
        question = self.question
        ids = question.acts.document_ids
        for judged in self.judged(kinds):
            tokens = None
            if question.by_token:
                examples = question.tested_examples(question.seeds.index(judged.seed))
                tokens = examples - question.offsets[judged.documents]
            yield from prediction_rows(judged, ids, tokens)

    def _judged(self, kind: str, member: int, layer: int, converged: bool) -> Judged:
        """What one probe says."""
        question, members = self.question, self.question.members
        row, label = int(members.seed[member]), int(members.label[member])
        seed = question.seeds[row]
        truths = question.shuffled_truth(row) if kind == SHUFFLED_LABELS else question.truth
        truth = truths[label]
        iterative = kind in KINDS and KINDS[kind].iterative
        train = question.examples_with(row, *([TRAIN] if iterative else LEARNING))
        test = question.tested_examples(row)
        return Judged(
            layer=layer,
            kind=kind,
            seed=seed,
            label=question.names[label],
            n_train=len(train),
            converged=converged,
            probabilities=self.scores.read(kind, member)[test],
            targets=truth[test],
            documents=question.documents[test],
        )


def _endings(trained: Trained) -> str:
    """How the probes of a stack came to their end, in one line."""
    settings, n_probes = trained.network.settings, len(trained.members)
    n_stopped = int(trained.converged.sum())
    n_lost = len(trained.lost)
    line = (
        f"{trained.network.kind}: {n_stopped} of {n_probes} probes stopped after "
        f"{settings.patience} epochs without a better validation loss"
    )
    if n_limited := n_probes - n_stopped - n_lost:
        line += f", {n_limited} at the limit of {settings.max_epochs} epochs (converged = no)"
    return line


def _lost(trained: Trained) -> str:
    """Which probes of a stack have learned nothing, in one line; empty where all have."""
    if not (n_lost := len(trained.lost)):
        return ""
    return (
        f"{trained.network.kind}: the validation loss of {n_lost} of {len(trained.members)} probes "
        "never was a number; what they say is nan (converged = no)"
    )


def check_finite(pooled: Acts) -> None:
    """Refuse activations that are no numbers: their mean is none either.

    Args:
        pooled: `blh`, pooled by the mean.

    Raises:
        UserError: naming layer and document.
    """
    for layer, acts in pooled.iter_layers():
        wrong = np.flatnonzero(~acts.tensor.isfinite().all(dim=1).numpy())
        if len(wrong):
            raise UserError(
                f"layer {layer}, document {acts.document_ids[wrong[0]]}: an activation is NaN or "
                "infinite. Capture anew (--store-dtype float32, --dtype float32), or leave the "
                "document out of --labels."
            )
