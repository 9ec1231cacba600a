import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.probes.ordering import epoch_groups, reading_groups, token_steps


@given(st.integers(1, 300), st.floats(1, 50), st.integers(0, 5), st.booleans())
def test_every_epoch_holds_each_document_once(n: int, size: float, epoch: int, long: bool) -> None:
    lengths = np.random.default_rng(n).integers(1, 100, n) if long else None
    groups = epoch_groups(n, lengths, size, 0, epoch)
    assert sorted(np.concatenate(groups).tolist()) == list(range(n))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= max(3, 0.7 * size)
    if n >= 4 * size:
        assert np.mean(sizes) == pytest.approx(size, rel=0.2)


def test_the_order_is_new_in_each_epoch_and_the_same_again() -> None:
    orders = [
        np.concatenate(epoch_groups(100, None, 10, seed, e)) for seed in (0, 1) for e in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0].tolist() == np.concatenate(epoch_groups(100, None, 10, 0, 0)).tolist()


def test_documents_of_like_length_meet() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 800)

    def padding(groups: list[np.ndarray]) -> float:
        padded = sum(len(group) * lengths[group].max() for group in groups)
        return 1 - lengths.sum() / padded

    assert padding(epoch_groups(800, lengths, 32, 0, 0)) < 0.12
    assert padding(epoch_groups(800, None, 32, 0, 0)) > 0.3
    means = [lengths[group].mean() for group in epoch_groups(800, lengths, 32, 0, 0)]
    assert np.abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5, "short ones come anywhere"


@given(st.sets(st.integers(0, 99)), st.integers(1, 20))
def test_reading_groups_hold_the_documents_sorted_by_length(chosen: set[int], size: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 100)
    groups = reading_groups(np.array(sorted(chosen), dtype=np.int64), lengths, size)
    read = [int(d) for group in groups for d in group]
    assert sorted(read) == sorted(chosen)
    assert [lengths[d] for d in read] == sorted(lengths[d] for d in read)
    assert all(0 < len(group) <= size for group in groups)


def test_tokens_are_dealt_evenly_at_random_and_a_document_knows_no_neighbour() -> None:
    lengths = np.full(50, 60)
    steps, n_steps = token_steps(np.arange(50), lengths, 300, (0, 1, 2))
    assert n_steps == 10
    assert steps.shape == (50, 60)
    counts = np.bincount(steps.ravel(), minlength=10)
    assert counts.min() > 200 and counts.max() < 400
    again, _ = token_steps(np.arange(50), lengths, 300, (0, 1, 2))
    other, _ = token_steps(np.arange(50), lengths, 300, (0, 1, 3))
    assert np.array_equal(steps, again) and not np.array_equal(steps, other)
