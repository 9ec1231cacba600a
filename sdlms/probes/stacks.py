"""Iterative kinds: all layers, seeds and labels of a kind in one stack, one pass per epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sdlms.acts.handle import Acts
from sdlms.models.device import allocated_bytes
from sdlms.numerics.splits import TRAIN
from sdlms.probes.attention import AttentionNetwork
from sdlms.probes.batches import ActsBatches
from sdlms.probes.gated_bipolar import GatedBipolarNetwork
from sdlms.probes.lesson import Lesson
from sdlms.probes.mlp import MlpNetwork
from sdlms.probes.multimax import MultiMaxNetwork
from sdlms.probes.network import Network
from sdlms.probes.question import Question
from sdlms.probes.trained import Predictions, Trained, predictions
from sdlms.probes.training import Trainer, train
from sdlms.progress import LOGGER, Progress
from sdlms.storage.scores import Scores
from sdlms.storage.tensors import read_tensors, write_tensors

NETWORKS: dict[str, Callable[[], Network]] = {
    "attention": AttentionNetwork,
    "multimax": MultiMaxNetwork,
    "gated_bipolar": GatedBipolarNetwork,
}
# A kill loses this much work at most, or an epoch; all members' states may be gigabytes.
CHECKPOINT_SECONDS = 30.0
# Parameters, the two moments and the best parameters; in the old file and in the new one.
CHECKPOINT_COPIES = 8


@dataclass(frozen=True, eq=False)
class Workshop:
    """Where stacks are trained.

    Attributes:
        device: where to compute.
        scratch: folder for checkpoints.
        on_halved: told how much is computed at once from now on, when memory ran out.
    """

    device: torch.device
    scratch: Path
    on_halved: Callable[[int], None]


def fit_stack(
    kind: str, question: Question, acts: Acts, scores: Scores, workshop: Workshop, seed: int
) -> Trained:
    """Train a kind on every layer, seed and label, and write what it says of what is tested.

    Args:
        kind: `mlp`, `attention`, `multimax` or `gated_bipolar`.
        question: what is asked.
        acts: of its documents; `blh` where documents are judged by one vector, otherwise `blsh`.
        scores: where probabilities go.
        workshop: where to compute, and where checkpoints are.
        seed: of the order in which documents are read.
    """
    data = ActsBatches(acts)
    network = _network(kind, question, data)
    lesson = Lesson(data, question.targets, question.split, seed, workshop.device)
    checkpoint = workshop.scratch / f"{kind}.safetensors"
    state = _state(checkpoint)
    n_done, n_epochs = 0 if state is None else len(state["history"]), network.settings.max_epochs
    device = workshop.device
    gpu = partial(allocated_bytes, device) if device.type == "cuda" else None
    total, done = n_epochs * data.n_documents, n_done * data.n_documents
    with Progress(kind, total, "documents", done=done, gpu_memory=gpu) as progress:
        noting = _Noting(kind, checkpoint, progress)
        trained = train(network, lesson, noting.note, workshop.on_halved, state)
    for part in predictions(trained, data, question.tested, workshop.on_halved):
        _write(kind, question, part, scores)
    return trained


def _network(kind: str, question: Question, data: ActsBatches) -> Network:
    """The untrained network; what scales a seed's input comes from what this seed trains on."""
    if kind == "mlp":
        return MlpNetwork.scaled_to(data, question.roles == TRAIN)
    return NETWORKS[kind]()


def probe_bytes(kind: str, n_units: int) -> int:
    """What a probe takes on disk at most, its checkpoints and what lies beside them included."""
    if kind not in NETWORKS and kind != "mlp":
        return 1000 + 3 * 8 * n_units
    one = torch.ones(1, 1)
    network = MlpNetwork.alone(one, one) if kind == "mlp" else NETWORKS[kind]()
    n_bytes = 4 * (sum(p.numel() for p in network.initial(n_units, 0).values()) + 2 * n_units)
    return 1000 + n_bytes + CHECKPOINT_COPIES * n_bytes


class _Noting:
    """Tells of epochs, and makes one durable now and then."""

    def __init__(self, kind: str, checkpoint: Path, progress: Progress) -> None:
        self._kind, self._checkpoint, self._progress = kind, checkpoint, progress
        self._noted = time.monotonic()

    def note(self, trainer: Trainer) -> None:
        """Take note of an epoch that has ended."""
        self._progress.advance(trainer.lesson.data.n_documents)
        LOGGER.debug(
            f"{self._kind}: epoch {trainer.epoch} ended, {trainer.n_active} of "
            f"{len(trainer.members)} probes go on"
        )
        if time.monotonic() - self._noted >= CHECKPOINT_SECONDS:
            arrays = {name: tensor.numpy() for name, tensor in trainer.state().items()}
            write_tensors(self._checkpoint, arrays, {"kind": self._kind})
            self._noted = time.monotonic()


def _state(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """Where an interrupted training stood; None where it had not begun."""
    if not checkpoint.exists():
        return None
    arrays, _ = read_tensors(checkpoint)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _write(kind: str, question: Question, part: Predictions, scores: Scores) -> None:
    """Write what all members say of some examples, in any order."""
    examples = question.offsets[part.documents]
    if part.tokens is not None:
        examples = examples + part.tokens
    order = np.argsort(examples)
    for member, row in enumerate(part.probabilities[:, order]):
        scores.write_at(kind, member, examples[order], row)
