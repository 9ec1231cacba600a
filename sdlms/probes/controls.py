"""What probes are compared with: labels that mean nothing, and directions that nobody chose."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.metrics import auroc

SHUFFLED_LABELS = "shuffled_labels"
RANDOM_DIRECTION = "random_direction"
CONTROLS = (SHUFFLED_LABELS, RANDOM_DIRECTION)


def shuffled(
    truth: NDArray[np.bool_],
    documents: NDArray[np.int64],
    sides: Sequence[NDArray[np.int64]],
    seed: int,
) -> NDArray[np.bool_]:
    """Labels dealt anew, among what is learned from and among what is tested on.

    What a probe then finds, it finds where there is nothing: AUROC is 0.5 on average. Labels of
    documents are dealt to other documents of the same side, so that both classes stay on both.
    Those of single tokens come in stretches, and may follow a token's place in its document: each
    document's labels are turned round by a number of tokens that is drawn, then all are laid end
    to end along the side's documents in an order that is drawn.

    Args:
        truth: `[example]` bool.
        documents: `[example]` the document of each, ascending.
        sides: examples of each side, ascending; others keep what they have.
        seed: of the draw.
    """
    dealt = truth.copy()
    generator = np.random.default_rng([seed, len(truth)])
    for side in sides:
        firsts = np.flatnonzero(np.diff(documents[side], prepend=-1))
        lengths = np.diff(firsts, append=len(side))
        order, turns = generator.permutation(len(firsts)), generator.random(len(firsts))
        n_positive = np.add.reduceat(truth[side].astype(np.int64), firsts)
        if ((n_positive == 0) | (n_positive == lengths)).all():
            dealt[side] = np.repeat(truth[side[firsts]][order], lengths)
        else:
            strips = np.split(truth[side], firsts[1:])
            shifts = (turns * lengths).astype(np.int64)
            dealt[side] = np.concatenate([np.roll(strips[i], shifts[i]) for i in order])
    return dealt


def random_direction(n_units: int, layer: int, seed: int) -> Tensor:
    """A direction in the space of activations, uniform on the sphere.

    Args:
        n_units: of the activations.
        layer: every layer has its own.
        seed: of the draw.

    Returns:
        `[unit]` float32 of length 1.
    """
    digest = hashlib.sha256(f"random direction {layer} {seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    drawn = torch.randn(n_units, generator=generator)
    direction: Tensor = drawn / drawn.norm()
    return direction


def oriented(
    scores: NDArray[np.float32], truth: NDArray[np.bool_], train: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Projections as numbers in (0, 1), turned so that class 1 scores higher in training.

    Which way a direction points is learned from the training examples, as a probe learns it.

    Args:
        scores: `[example]`.
        truth: `[example]` bool.
        train: indices of the examples to learn from.

    Returns:
        `[example]` float32, the standard logistic function of scores in standard deviations from
        the mean of the training examples.
    """
    centre, spread = scores[train].mean(), scores[train].std() or 1.0
    sign = -1.0 if auroc(scores[train], truth[train]) < 0.5 else 1.0
    turned: NDArray[np.float32] = torch.sigmoid(
        torch.from_numpy(sign * (scores - centre) / spread).float()
    ).numpy()
    return turned
