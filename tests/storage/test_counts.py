from pathlib import Path

import numpy as np
import pytest

from sdlms.storage import counts
from sdlms.storage.counts import create_counts, masked_lengths, read_counts, task_counts
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows

KEY = ("mlp_act", 2)


def rows_of(lengths: list[int], mask: list[int]) -> Rows:
    return Rows(
        ids=np.zeros(sum(lengths), dtype=np.int32),
        mask=np.array(mask, dtype=np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(lengths))],
        document_tasks=["a", "b", "a"][: len(lengths)],
    )


def test_masked_lengths_count_mask_one_tokens() -> None:
    rows = rows_of([3, 0, 2], [1, 0, 1, 0, 0])
    assert masked_lengths(rows).tolist() == [2, 0, 0]


@pytest.mark.parametrize("block", [1, 2, 1024])
def test_task_counts_sum_documents_in_any_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(counts, "BLOCK_DOCUMENTS", block)
    path = tmp_path / "counts.h5"
    create_counts(path, {KEY: 4}, rows_of([2, 1, 2], [1] * 5), sample=[0, 2])
    values = np.arange(12, dtype=np.uint32).reshape(3, 4)
    with FlatWriter(path) as writer:
        writer.write("/mlp_act/layer_2/counts", 0, values)
    members = np.array([[True, False, True], [False, True, False]])
    totals, fired = task_counts(path, KEY, members)
    assert totals.tolist() == [(values[0] + values[2]).tolist(), values[1].tolist()]
    assert fired.tolist() == values.sum(axis=1).tolist()
    assert read_counts(path, "/documents/n_tokens").tolist() == [2, 1, 2]
    assert read_counts(path, "/threshold_sample/documents").tolist() == [0, 2]


def test_sums_do_not_wrap(tmp_path: Path) -> None:
    path = tmp_path / "counts.h5"
    create_counts(path, {KEY: 1}, rows_of([1, 1], [1, 1]), sample=[])
    with FlatWriter(path) as writer:
        writer.write("/mlp_act/layer_2/counts", 0, np.full((2, 1), 2**32 - 1, dtype=np.uint32))
    totals, _ = task_counts(path, KEY, np.array([[True, True]]))
    assert totals.tolist() == [[2 * (2**32 - 1)]]
