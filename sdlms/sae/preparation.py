"""What training and measuring start from: statistics of training tokens, and held-out tokens."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdlms.acts.flattening import TokenRows, token_rows
from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.sae.baselines import Moments
from sdlms.sae.documents import Documents
from sdlms.sae.stream import TokenStream

VALIDATION_TOKENS = 8192  # that early stopping looks at, drawn from the held-out ones


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that members of all layers share.

    Attributes:
        stream: batches of the training documents.
        moments: of each layer's training tokens: all of them where they fit the memory, otherwise
            the first chapter.
        scales: `[layer]` float32: times them, a layer's mean squared distance from its mean is
            its number of units, so that one L1 coefficient means the same at every layer.
        measured: held-out tokens, all layers.
        validation: `[layer, token, unit]`, those of them that early stopping looks at.
    """

    stream: TokenStream
    moments: list[Moments]
    scales: Tensor
    measured: TokenRows
    validation: Tensor


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
    rows = stream.read(stream.chapters(0)[0])
    moments = [Moments.of(own) for own in rows]
    for layer, own in zip(acts.layers, moments, strict=True):
        if not own.variance > 0:
            raise UserError(
                f"activations of layer {layer} are the same at every token: there is nothing to "
                "learn. Leave the layer out."
            )
    measured = token_rows(acts.slice_batch(documents.measured))
    chosen = _some_rows(measured.acts.shape[1], seed)
    scales = [(acts.n_units / own.variance) ** 0.5 for own in moments]
    return Prepared(stream, moments, torch.tensor(scales), measured, measured.acts[:, chosen])


def _some_rows(n_rows: int, seed: int) -> Tensor:
    """`[row]` a seeded choice of rows, ascending."""
    order = np.random.default_rng(seed).permutation(n_rows)[:VALIDATION_TOKENS]
    return torch.from_numpy(np.sort(order))
