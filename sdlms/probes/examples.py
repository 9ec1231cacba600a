"""From a batch of documents to what is learned from at once: documents, vectors or tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.probes.batches import Batch
from sdlms.probes.targets import Targets


@dataclass(frozen=True)
class Examples:
    """What is learned from, or judged, at once.

    Attributes:
        x: `[layer, example, unit]`, or `[layer, document, token, unit]` with a mask.
        mask: `[document, token]` bool, or None.
        documents: `[example]`, the document of each.
        tokens: `[example]`, its place in the document; None where examples are documents.
    """

    x: Tensor
    mask: Tensor | None
    documents: NDArray[np.int64]
    tokens: NDArray[np.int64] | None


def documents_of(batch: Batch) -> Examples:
    """Every document is an example: one vector, or all its tokens.

    Raises:
        UserError: a document has no mask-1 token.
    """
    if batch.mask is not None:
        empty = ~batch.mask.any(dim=1).cpu().numpy()
        if empty.any():
            raise UserError(
                f"document {batch.documents[empty][0]} has no token whose mask is 1, so a probe "
                "that reads tokens has nothing to read. Leave it out."
            )
    return Examples(batch.x, batch.mask, batch.documents, None)


def tokens_of(batch: Batch, targets: Targets | None) -> Examples:
    """Every mask-1 token is an example, document by document; with targets, if they know it."""
    return _taken(batch, _usable(batch, targets))


def token_steps_of(
    batch: Batch, targets: Targets, steps: NDArray[np.int64], n_steps: int
) -> Iterator[Examples]:
    """The same tokens, dealt to `n_steps` training steps; an empty step is left out.

    Args:
        batch: with tokens.
        targets: which tokens have a label.
        steps: `[document, token]`, the step of each token.
        n_steps: how many steps there are.
    """
    usable = _usable(batch, targets)
    for step in range(n_steps):
        chosen = usable & (steps[:, : usable.shape[1]] == step)
        if chosen.any():
            yield _taken(batch, chosen)


def _usable(batch: Batch, targets: Targets | None) -> NDArray[np.bool_]:
    """`[document, token]`, whether the mask is 1 and the label known."""
    if batch.mask is None:
        raise ValueError("this batch has no tokens")
    usable: NDArray[np.bool_] = batch.mask.cpu().numpy().copy()
    if targets is not None:
        rows, tokens = np.nonzero(usable)
        usable[rows, tokens] = targets.known(batch.documents[rows], tokens)
    return usable


def _taken(batch: Batch, chosen: NDArray[np.bool_]) -> Examples:
    """The tokens that are true in `chosen` `[document, token]`."""
    rows, tokens = np.nonzero(chosen)
    x = batch.x.flatten(1, 2)
    where = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
    return Examples(x.index_select(1, where), None, batch.documents[rows], tokens)
