"""Losses of documents that are made up, for tests of estimates."""

import numpy as np
from numpy.typing import NDArray

from sdlms.dynamic.losses import DocumentLosses


def made(
    sums: NDArray[np.float64] | list[float],
    counts: NDArray[np.int64] | list[int],
    task: NDArray[np.int64] | list[int] | None = None,
    ids: list[str] | None = None,
) -> DocumentLosses:
    """Document losses of one seed."""
    n_documents = len(sums)
    return DocumentLosses(
        ids=ids or [f"document-{number:04}" for number in range(n_documents)],
        task=np.zeros(n_documents, np.int64) if task is None else np.array(task, np.int64),
        counts=np.array(counts, np.int64),
        sums=np.array(sums, np.float64),
    )


def at_random(seed: int, n_documents: int = 30, n_tasks: int = 2) -> DocumentLosses:
    """Documents of 20 to 200 tokens, each with a loss per token of its own, around 2 nats."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(20, 200, n_documents)
    sums = counts * generator.normal(2.0, 0.3, n_documents)
    return made(sums, counts, np.arange(n_documents) % n_tasks)


def worse(losses: DocumentLosses, nats: float) -> DocumentLosses:
    """The same tokens, each lost by so much more."""
    return losses._replace(sums=losses.sums + nats * losses.counts)
