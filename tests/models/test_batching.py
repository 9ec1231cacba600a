import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.models.batching import (
    is_out_of_memory,
    longest_first,
    run_batches,
    take_batch,
    token_blocks,
)

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=40)


@given(LENGTHS)
def test_order_is_longest_first_without_empty_documents(lengths: list[int]) -> None:
    order = longest_first(np.array(lengths))
    assert [lengths[d] for d in order] == sorted((n for n in lengths if n), reverse=True)
    assert len(set(order)) == len(order)


@given(LENGTHS, st.integers(1, 200))
def test_blocks_keep_the_order_and_are_full(lengths: list[int], block_tokens: int) -> None:
    array = np.array(lengths)
    order = longest_first(array)
    blocks = token_blocks(order, array, block_tokens)
    assert [d for block in blocks for d in block] == order
    for block in blocks[:-1]:
        assert sum(lengths[d] for d in block) >= block_tokens
        assert sum(lengths[d] for d in block[:-1]) < block_tokens


@given(LENGTHS, st.integers(1, 300))
def test_a_batch_stays_within_the_budget_and_is_as_long_as_it_can_be(
    lengths: list[int], budget: int
) -> None:
    order, array = list(range(len(lengths))), np.array(lengths)
    batch = take_batch(order, array, budget)
    assert batch == order[: len(batch)]
    assert len(batch) == 1 or max(lengths[d] for d in batch) * len(batch) <= budget
    if len(batch) < len(order):
        longer = order[: len(batch) + 1]
        assert max(lengths[d] for d in longer) * len(longer) > budget


@given(LENGTHS, st.integers(1, 400), st.integers(60, 400))
def test_every_document_is_run_once_however_often_memory_runs_out(
    lengths: list[int], budget: int, room: int
) -> None:
    array = np.array(lengths)
    halved: list[int] = []

    def forward(batch: list[int]) -> list[int]:
        if len(batch) * int(array[batch].max()) > room:
            raise torch.OutOfMemoryError("no room")
        return batch

    order = longest_first(array)
    batches = list(run_batches(order, array, budget, forward, halved.append))
    assert [d for batch, _, _ in batches for d in batch] == order
    assert all(batch == result for batch, result, _ in batches)
    assert halved == sorted(halved, reverse=True)
    if halved:
        assert batches[-1][2] == halved[-1]


def test_a_document_that_never_fits_is_one_clear_line() -> None:
    def forward(batch: list[int]) -> int:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(UserError, match="single document of 40 tokens"):
        list(run_batches([0, 1], np.array([40, 30]), 100, forward, lambda _: None))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def forward(batch: list[int]) -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(run_batches([0], np.array([4]), 100, forward, lambda _: None))
    assert is_out_of_memory(MemoryError())


def test_an_error_of_the_caller_does_not_repeat_a_batch() -> None:
    """What is done with a result may run out of memory too; then the run must stop."""
    seen: list[list[int]] = []
    with pytest.raises(MemoryError):
        for batch, _, _ in run_batches([0, 1], np.array([4, 4]), 4, len, seen.append):
            raise MemoryError(batch)
    assert seen == []
