"""In which order documents are read: shuffled in each epoch, little padding, known beforehand."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.probes.seeding import generator_for

# Batches among which documents are sorted by length: enough that padding is a few per cent, few
# enough that who is met in a batch still changes with every epoch.
WINDOW_BATCHES = 8


def epoch_groups(
    n_documents: int,
    lengths: NDArray[np.int64] | None,
    batch_documents: float,
    order_seed: int,
    epoch: int,
) -> list[NDArray[np.int64]]:
    """Cut all documents into the batches of one epoch.

    Depends on nothing but the arguments; in particular not on who trains on which document.

    Args:
        n_documents: how many there are, at least 1.
        lengths: `[document]` tokens; inside a window documents of like length come together.
        batch_documents: documents of a batch, on average; batches differ by at most 1 in a window.
        order_seed: seed of the order.
        epoch: each has its own order.

    Returns:
        Documents of each batch; together each document once.
    """
    generator = generator_for("order", order_seed, epoch)
    order = torch.randperm(n_documents, generator=generator).numpy()
    groups: list[NDArray[np.int64]] = []
    n_windows = _parts(n_documents, batch_documents * WINDOW_BATCHES)
    for window in np.array_split(order, n_windows):
        if lengths is not None:
            window = window[np.argsort(lengths[window], kind="stable")]
        groups += np.array_split(window, _parts(len(window), batch_documents))
    return [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]


def reading_groups(
    documents: NDArray[np.int64], lengths: NDArray[np.int64] | None, batch_documents: int
) -> list[NDArray[np.int64]]:
    """Cut documents into batches for evaluation, documents of like length together."""
    if len(documents) == 0:
        return []
    if lengths is not None:
        documents = documents[np.argsort(lengths[documents], kind="stable")]
    return np.array_split(documents, -(-len(documents) // batch_documents))


def token_steps(
    group: NDArray[np.int64],
    lengths: NDArray[np.int64],
    step_tokens: float,
    key: Sequence[int],
) -> tuple[NDArray[np.int64], int]:
    """Assign the tokens of a batch to training steps at random.

    Args:
        group: documents of the batch.
        lengths: `[document]` stored tokens.
        step_tokens: tokens of a step, on average.
        key: what the draw depends on: order seed, epoch, batch.

    Returns:
        `[document of group, token]` step of each token, longer documents' tokens beyond a
        document's end being meaningless; and the number of steps.
    """
    longest = int(lengths[group].max(initial=0))
    n_steps = _parts(int(lengths[group].sum()), step_tokens)
    generator = generator_for("tokens", *key)
    steps = torch.randint(n_steps, (len(group), longest), generator=generator)
    return steps.numpy(), n_steps


def _parts(n: int, size: float) -> int:
    """Into how many parts of about `size` to cut `n`, at least 1."""
    return max(1, round(n / size))
