"""What training and measuring start from: statistics of training tokens, and held-out tokens."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdlms.acts.flattening import TokenRows, token_counts, token_rows
from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.sae.baselines import Moments
from sdlms.sae.documents import Documents
from sdlms.sae.stream import TokenStream, chapters_of, rows_within

VALIDATION_TOKENS = 4096  # that early stopping looks at, drawn from the held-out ones
CALIBRATION_TOKENS = 16_384  # on which a threshold gives L0 to 1 %


@dataclass(frozen=True, eq=False)
class Basis:
    """What autoencoders of all layers are measured on.

    Attributes:
        moments: of each layer's training tokens: all of them where they fit the memory, otherwise
            the first chapter.
        measured: held-out tokens, all layers.
    """

    moments: list[Moments]
    measured: TokenRows


@dataclass(frozen=True, eq=False)
class Prepared(Basis):
    """Everything that members of all layers share.

    Attributes:
        stream: batches of the training documents.
        scales: `[layer]` float32: times them, a layer's mean squared distance from its mean is
            its number of units, so that one L1 coefficient means the same at every layer.
        validation: `[layer, token, unit]`, those of the measured tokens that early stopping looks
            at.
        calibration: `[layer, token, unit]`, training tokens on which thresholds are set.
    """

    stream: TokenStream
    scales: Tensor
    validation: Tensor
    calibration: Tensor


def prepare(acts: Acts, documents: Documents, batch_size: int, seed: int) -> Prepared:
    """Read what is held out, and the training tokens that their statistics rest on.

    Args:
        acts: of all documents, every layer that is trained on.
        documents: their roles.
        batch_size: tokens in a batch.
        seed: of every order.

    Raises:
        UserError: an activation is NaN or infinite, a layer's never vary, or there are fewer
            training tokens than a batch takes.
    """
    stream = TokenStream(acts.slice_batch(documents.training), batch_size, seed)
    training = stream.read(stream.chapters(0)[0])
    moments = _moments(acts, training)
    measured = token_rows(acts.slice_batch(documents.measured))
    return Prepared(
        moments=moments,
        measured=measured,
        stream=stream,
        scales=torch.tensor([(acts.n_units / own.variance) ** 0.5 for own in moments]),
        validation=_some_rows(measured.acts, VALIDATION_TOKENS, seed),
        calibration=_some_rows(training, CALIBRATION_TOKENS, seed),
    )


def basis(acts: Acts, documents: Documents, seed: int) -> Basis:
    """The same moments and held-out tokens, where nothing is trained.

    Args:
        acts: of all documents, every layer that is measured.
        documents: their roles.
        seed: of the order of chapters.

    Raises:
        UserError: an activation is NaN or infinite, or a layer's never vary.
    """
    training = acts.slice_batch(documents.training)
    first = chapters_of(token_counts(training), rows_within(training), seed)[0]
    moments = _moments(acts, token_rows(training.slice_batch(first.documents)).acts)
    return Basis(moments, token_rows(acts.slice_batch(documents.measured)))


def _moments(acts: Acts, rows: Tensor) -> list[Moments]:
    """Of each layer, from `[layer, row, unit]` training tokens."""
    moments = [Moments.of(own) for own in rows]
    for layer, own in zip(acts.layers, moments, strict=True):
        if not own.variance > 0:
            raise UserError(
                f"activations of layer {layer} are the same at every token: there is nothing to "
                "learn. Leave the layer out."
            )
    return moments


def _some_rows(acts: Tensor, n_most: int, seed: int) -> Tensor:
    """`[layer, row, unit]`, a seeded choice of rows, in their order."""
    order = np.random.default_rng(seed).permutation(acts.shape[1])[:n_most]
    return acts[:, torch.from_numpy(np.sort(order))]
