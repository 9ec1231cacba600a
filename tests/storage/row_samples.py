"""Rows that tests of storage share."""

import numpy as np

from sdlms.storage.rows import Rows


def some_rows(lengths: list[int]) -> Rows:
    n_tokens = sum(lengths)
    return Rows(
        ids=np.arange(n_tokens, dtype=np.int32),
        mask=(np.arange(n_tokens) % 3 > 0).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(lengths))],
        document_tasks=["maths" if i % 2 else "prosé" for i in range(len(lengths))],
    )
