"""Train all members of a sweep on one stream of batches: each is read once, for all of them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdlms.progress import LOGGER, Progress
from sdlms.sae.checkpoint import has_checkpoint, read_checkpoint, write_checkpoint
from sdlms.sae.interrupts import held_interrupts
from sdlms.sae.preparation import Prepared
from sdlms.sae.pupil import Pupil
from sdlms.sae.screening import rungs_of, screen
from sdlms.sae.selection import Rule

EVALUATIONS = 20
# Between checkpoints; and for each second that the last one took. They cost a 16th of the time.
CHECKPOINT_SECONDS = 15.0


@dataclass(frozen=True)
class Course:
    """How long is learned, and who may go on.

    Attributes:
        n_steps: updates of each member.
        patience: evaluations without progress after which a member ends; 0 never ends it.
        screen_by: the rule by which members are given up early; None keeps all of them.
    """

    n_steps: int
    patience: int
    screen_by: Rule | None = None

    @property
    def every(self) -> int:
        """Updates between evaluations, of which there are no more than `EVALUATIONS`."""
        return math.ceil(self.n_steps / EVALUATIONS)

    def is_evaluation(self, step: int) -> bool:
        """Whether members are evaluated after so many updates."""
        return step % self.every == 0 or step == self.n_steps


class Training:
    """The loop over batches."""

    def __init__(
        self, prepared: Prepared, pupils: Sequence[Pupil], course: Course, device: torch.device
    ) -> None:
        """Take everything up; nothing is trained yet.

        Args:
            prepared: batches, and what members are evaluated on.
            pupils: of every layer, anew, on the device.
            course: how long.
            device: where they learn.
        """
        self._prepared, self._stream = prepared, prepared.stream
        self._scales = prepared.scales.to(device)
        self.pupils, self._course = pupils, course
        self._layers = sorted({pupil.member.layer for pupil in pupils})
        self.n_done = self._n_saved = 0
        self._is_whole = True
        self._due_at = 0.0

    def run(self, checkpoint: Path) -> None:
        """Train until every member has ended; go on from a checkpoint where there is one.

        Checkpoints are written between updates: not more often than every 15 seconds, and at an
        interrupt, which waits for the end of the update. What a member becomes does not depend on
        when they were.

        Args:
            checkpoint: folder of it.

        Raises:
            UserError: a member diverges; what was saved last stays.
            KeyboardInterrupt: it was interrupted, and saved.
        """
        if has_checkpoint(checkpoint):
            self.n_done = self._n_saved = read_checkpoint(checkpoint, self.pupils)
        self._due_at = time.monotonic() + CHECKPOINT_SECONDS
        try:
            self._learn(checkpoint)
        except KeyboardInterrupt:
            if self._is_whole and self.n_done > self._n_saved:
                self.save(checkpoint)
            raise

    def _learn(self, checkpoint: Path) -> None:
        """Batch after batch, until every member has ended."""
        n_tokens = self._course.n_steps * self._stream.batch_size
        done = self.n_done * self._stream.batch_size
        with Progress("training", n_tokens, "tokens", done=done) as progress:
            batches = self._stream.batches(self.n_done)
            while any(pupil.learns for pupil in self.pupils):
                batch = next(batches)
                with held_interrupts():
                    self._advance(batch)
                    self._save_if_due(checkpoint)
                progress.advance(self._stream.batch_size)

    def _advance(self, batch: Tensor) -> None:
        """An update of all members, and their evaluation if it is time: both, or it is broken."""
        self._is_whole = False
        self._step(batch)
        if self._course.is_evaluation(self.n_done):
            self._evaluate()
        self._is_whole = True

    def _step(self, batch: Tensor) -> None:
        """One update of every member that learns, layer by layer."""
        for index, layer in enumerate(self._layers):
            pupils = [p for p in self.pupils if p.member.layer == layer and p.learns]
            if pupils:
                acts = self._scaled(batch[index], index)
                for pupil in pupils:
                    pupil.learner.step(acts)
        self.n_done += 1

    def _scaled(self, acts: Tensor, index: int) -> Tensor:
        """Activations as learners take them."""
        return acts.to(self._scales.device, torch.float32) * self._scales[index]

    def _evaluate(self) -> None:
        """A row of the curve for every member that learns; at a rung, half of them go."""
        for index, layer in enumerate(self._layers):
            learning = [p for p in self.pupils if p.member.layer == layer and p.learns]
            if learning:
                calibration = self._scaled(self._prepared.calibration[index], index)
                validation = self._scaled(self._prepared.validation[index], index)
                for pupil in learning:
                    pupil.evaluate(calibration, validation, self._course.patience)
        rule, course = self._course.screen_by, self._course
        if rule is not None and self.n_done in rungs_of(course.n_steps, course.every):
            for pupil in screen(self.pupils, rule):
                l0, fvu = pupil.point
                LOGGER.info(
                    f"{pupil.key}: given up after {self.n_done} steps (L0 {l0:.1f}, FVU {fvu:.3f})"
                )

    def _save_if_due(self, checkpoint: Path) -> None:
        """Write a checkpoint, unless there is a young one."""
        began = time.monotonic()
        if began >= self._due_at:
            self.save(checkpoint)
            now = time.monotonic()
            self._due_at = now + CHECKPOINT_SECONDS * max(1.0, now - began)

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint; unless a member is no number any more: then the last one stays."""
        if all(pupil.is_finite() for pupil in self.pupils):
            self._n_saved = self.n_done
            write_checkpoint(checkpoint, self.n_done, self.pupils)
