"""Train all members of a sweep on one stream of batches: each is read once, for all of them."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.models.batching import is_out_of_memory
from sdlms.progress import LOGGER, Progress
from sdlms.sae.pupil import Pupil
from sdlms.sae.screening import rungs_of, screen
from sdlms.sae.selection import Rule
from sdlms.sae.stream import TokenStream
from sdlms.storage.tensors import read_tensors, write_tensors

EVALUATIONS = 20
CHECKPOINT_SECONDS = 15.0
STEP = "step"


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
        self,
        stream: TokenStream,
        scales: Tensor,
        validation: Tensor,
        pupils: Sequence[Pupil],
        course: Course,
    ) -> None:
        """Take everything up; nothing is trained yet.

        Args:
            stream: `[layer, token, unit]` batches in the stored type.
            scales: `[layer]` float32, by which activations are multiplied.
            validation: `[layer, token, unit]`, tokens of other documents, unscaled.
            pupils: of every layer, anew.
            course: how long.
        """
        self._stream, self._scales, self._validation = stream, scales, validation
        self.pupils, self._course = pupils, course
        self._layers = sorted({pupil.member.layer for pupil in pupils})
        self.n_done = 0
        self._saved_at = 0.0

    def run(self, checkpoint: Path) -> None:
        """Train until every member has ended; go on from a checkpoint where there is one.

        Checkpoints are written at evaluations, not more often than every 15 seconds. What a member
        becomes does not depend on when they were.

        Raises:
            UserError: a member diverges, or the memory is too small; what was saved last stays.
        """
        if checkpoint.exists():
            self._restore(checkpoint)
        self._saved_at = time.monotonic()
        n_tokens = self._course.n_steps * self._stream.batch_size
        done = self.n_done * self._stream.batch_size
        with Progress("training", n_tokens, "tokens", done=done) as progress:
            batches = self._stream.batches(self.n_done)
            while any(pupil.learns for pupil in self.pupils):
                batch = next(batches)
                self._step(batch)
                if self._course.is_evaluation(self.n_done):
                    self._evaluate(batch)
                    self._save_if_due(checkpoint)
                progress.advance(self._stream.batch_size)

    def _step(self, batch: Tensor) -> None:
        """One update of every member that learns.

        Raises:
            UserError: it does not fit the memory. Smaller batches would be another training.
        """
        try:
            self._update(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{len(self.pupils)} members with batches of {self._stream.batch_size} tokens do "
                f"not fit the memory of {self._scales.device}. Lower --batch-size or --expansion, "
                "or name fewer --layers or coefficients."
            ) from None

    def _update(self, batch: Tensor) -> None:
        """One update of every member, layer by layer."""
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

    def _evaluate(self, batch: Tensor) -> None:
        """A row of the curve for every member that learns; at a rung, half of them go."""
        for index, layer in enumerate(self._layers):
            learning = [p for p in self.pupils if p.member.layer == layer and p.learns]
            if learning:
                training = self._scaled(batch[index], index)
                validation = self._scaled(self._validation[index], index)
                for pupil in learning:
                    pupil.evaluate(training, validation, self._course.patience)
        rule, course = self._course.screen_by, self._course
        if rule is not None and self.n_done in rungs_of(course.n_steps, course.every):
            for pupil in screen(self.pupils, rule):
                l0, fvu = pupil.point
                LOGGER.info(
                    f"{pupil.key}: given up after {self.n_done} steps (L0 {l0:.1f}, FVU {fvu:.3f})"
                )

    def _save_if_due(self, checkpoint: Path) -> None:
        """Write a checkpoint, unless there is a young one."""
        if time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self.save(checkpoint)
            self._saved_at = time.monotonic()

    def save(self, checkpoint: Path) -> None:
        """Everything that the future depends on, in one file that is whole or not there."""
        arrays: dict[str, NDArray[Any]] = {}
        texts = {STEP: json.dumps(self.n_done)}
        for pupil in self.pupils:
            own, texts[pupil.key] = pupil.saved()
            arrays |= {f"{pupil.key}/{name}": array for name, array in own.items()}
        write_tensors(checkpoint, arrays, texts)

    def _restore(self, checkpoint: Path) -> None:
        """Take up what `save` wrote."""
        arrays, texts = read_tensors(checkpoint)
        self.n_done = json.loads(texts[STEP])
        for pupil in self.pupils:
            prefix = f"{pupil.key}/"
            own = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            pupil.restore(own, texts[pupil.key])
