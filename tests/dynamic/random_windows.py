"""Windows of random tokens, which need no tokenizer."""

from collections.abc import Sequence

import numpy as np

from sdlms.dynamic.windows import Windows

FIRST, WINDOW = 3, 9


def random_windows(
    tasks: Sequence[str] = ("math", "qa"),
    documents: int = 4,
    vocabulary: Sequence[tuple[int, int]] = ((1, 50), (1, 50)),
    seed: int = 0,
) -> Windows:
    """Two windows of each document, the last scored token of each left out.

    Args:
        tasks: names.
        documents: of each task.
        vocabulary: of each task, ids from the first up to the second.
        seed: of the tokens.
    """
    generator = np.random.default_rng(seed)
    ids = [
        generator.integers(low, high, size=(2 * documents, WINDOW))
        for low, high in vocabulary[: len(tasks)]
    ]
    n_windows = 2 * documents * len(tasks)
    scored = np.ones((n_windows, WINDOW - FIRST), dtype=np.bool_)
    scored[:, -1] = False
    document = np.repeat(np.arange(n_windows // 2), 2)[:, None] + np.zeros_like(scored, np.int64)
    return Windows(
        ids=np.concatenate(ids).astype(np.int64),
        first=FIRST,
        scored=scored,
        document=np.where(scored, document, -1),
        task=np.repeat(np.arange(len(tasks)), 2 * documents),
        document_ids=[f"document {number}" for number in range(n_windows // 2)],
        task_names=list(tasks),
    )
