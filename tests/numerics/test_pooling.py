"""Pooling against plain loops in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdlms.numerics.pooling import PoolKind, pool_documents

KINDS: list[PoolKind] = ["mean", "sum", "max", "last"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def by_hand(rows: Tensor, lengths: list[int], mask: np.ndarray, kind: str) -> list[list[float]]:
    pooled, first = [], 0
    for length in lengths:
        kept = [rows[i].double().tolist() for i in range(first, first + length) if mask[i]]
        first += length
        columns = list(zip(*kept, strict=True)) if kept else [()] * rows.shape[1]
        results = []
        for column in columns:
            if not column:
                results.append(0.0 if kind == "sum" else float("nan"))
            else:
                total = sum(column)
                found = {"sum": total, "mean": total / len(column), "max": max(column)}
                results.append(found.get(kind, column[-1]))
        pooled.append(results)
    return pooled


@pytest.mark.parametrize("kind", KINDS)
@given(
    lengths=st.lists(st.integers(0, 9), max_size=6),
    seed=st.integers(0, 9),
    dtype=st.sampled_from(DTYPES),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_pooling_is_what_loops_give(
    kind: PoolKind, lengths: list[int], seed: int, dtype: torch.dtype, share: float
) -> None:
    generator = np.random.default_rng(seed)
    rows = torch.from_numpy(generator.normal(size=(sum(lengths), 3))).to(dtype)
    mask = generator.random(sum(lengths)) < share
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    found = pool_documents(rows, offsets, mask, kind)
    assert found.dtype == torch.float32
    expected = torch.tensor(by_hand(rows, lengths, mask, kind)).reshape(len(lengths), 3)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_do_not_stop_where_the_stored_type_would(dtype: torch.dtype) -> None:
    rows = torch.ones(5000, 2, dtype=dtype)
    offsets, mask = np.array([0, 5000]), np.ones(5000, dtype=bool)
    assert pool_documents(rows, offsets, mask, "sum").tolist() == [[5000.0] * 2]
    assert pool_documents(rows, offsets, mask, "mean").tolist() == [[1.0] * 2]
    large = torch.full((100, 1), 60000.0, dtype=dtype)
    assert pool_documents(large, np.array([0, 100]), mask[:100], "mean").isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_is_not_read(kind: PoolKind) -> None:
    rows, mask = torch.randn(6, 2), np.array([0, 1, 0, 1, 0, 0], dtype=bool)
    offsets = np.array([0, 4, 6])
    expected = pool_documents(rows, offsets, mask, kind)
    rows[~torch.from_numpy(mask)] = torch.nan
    found = pool_documents(rows, offsets, mask, kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_left_as_they_are(kind: PoolKind) -> None:
    rows = torch.randn(6, 2)
    before = rows.clone()
    found = pool_documents(rows, np.array([0, 1, 6]), np.ones(6, dtype=bool), kind)
    found.zero_()
    assert torch.equal(rows, before)


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_is_itself(kind: PoolKind) -> None:
    rows = torch.randn(3, 4)
    found = pool_documents(rows, np.arange(4), np.ones(3, dtype=bool), kind)
    assert torch.equal(found, rows)


@pytest.mark.parametrize("kind", ["mean", "sum", "max", "last"])
def test_a_nan_that_is_read_is_seen(kind: PoolKind) -> None:
    rows = torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    found = pool_documents(rows, np.array([0, 2]), np.ones(2, dtype=bool), kind)
    assert found.isnan().tolist() == [[False, kind != "last"]]
