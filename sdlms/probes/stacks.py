"""Iterative kinds: all layers, seeds and labels of a kind in one stack, one pass per epoch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.acts.handle import Acts
from sdlms.probes.attention import AttentionNetwork
from sdlms.probes.batches import ActsBatches
from sdlms.probes.gated_bipolar import GatedBipolarNetwork
from sdlms.probes.kinds import KINDS, Probe
from sdlms.probes.lesson import Lesson
from sdlms.probes.mlp import MlpNetwork
from sdlms.probes.multimax import MultiMaxNetwork
from sdlms.probes.network import Network
from sdlms.probes.question import Question
from sdlms.probes.trained import Predictions, Trained, predictions
from sdlms.probes.training import Trainer, train
from sdlms.storage.scores import Scores
from sdlms.storage.tensors import read_tensors, write_tensors

NETWORKS: dict[str, Callable[[], Network]] = {
    "attention": AttentionNetwork,
    "multimax": MultiMaxNetwork,
    "gated_bipolar": GatedBipolarNetwork,
}


@dataclass(frozen=True, eq=False)
class Workshop:
    """Where stacks are trained.

    Attributes:
        device: where to compute.
        scratch: folder for checkpoints.
        on_epoch: told the kind, the epochs done and the members that still train.
        on_halved: told how much is computed at once from now on, when memory ran out.
    """

    device: torch.device
    scratch: Path
    on_epoch: Callable[[str, int, int], None]
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
    trained = train(
        network,
        lesson,
        on_epoch=partial(_note_epoch, kind, checkpoint, workshop),
        on_halved=workshop.on_halved,
        state=_state(checkpoint),
    )
    for part in predictions(trained, data, question.tested, workshop.on_halved):
        _write(kind, question, part, scores)
    return trained


def _network(kind: str, question: Question, data: ActsBatches) -> Network:
    """The untrained network; what scales its input comes from documents that no seed tests on."""
    if kind == "mlp":
        return MlpNetwork.scaled_to(data, question.never_tested)
    return NETWORKS[kind]()


def probe_of(trained: Trained, member: int) -> Probe:
    """One member of a stack as a probe of its own."""
    settings = {
        **asdict(trained.network.settings),
        "converged": bool(trained.converged[member]),
    }
    kind = KINDS[trained.network.kind].probe_class()
    return kind.from_parts(settings, trained.tensors_of(member))


def _note_epoch(kind: str, checkpoint: Path, workshop: Workshop, trainer: Trainer) -> None:
    """Make an epoch durable, then tell of it."""
    arrays = {name: tensor.numpy() for name, tensor in trainer.state().items()}
    write_tensors(checkpoint, arrays, {"kind": kind})
    workshop.on_epoch(kind, trainer.epoch, trainer.n_active)


def _state(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """Where an interrupted training stood; None where it had not begun."""
    if not checkpoint.exists():
        return None
    arrays, _ = read_tensors(checkpoint)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _write(kind: str, question: Question, part: Predictions, scores: Scores) -> None:
    """Write what all members say of some examples, run by run of consecutive ones."""
    examples = question.offsets[part.documents]
    if part.tokens is not None:
        examples = examples + part.tokens
    order = np.argsort(examples)
    for numbers, columns in _runs(examples[order], order):
        for member, row in enumerate(part.probabilities[:, columns]):
            scores.write(kind, member, int(numbers[0]), row)


def _runs(
    numbers: NDArray[np.int64], order: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ascending numbers cut into runs of consecutive ones, each with what belongs to it."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return list(zip(np.split(numbers, breaks), np.split(order, breaks), strict=True))
