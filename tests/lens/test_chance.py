"""Chance agreement against the mean over all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.lens.chance import Tally, chance

tokens = st.lists(st.integers(0, 6) | st.just(2**31 - 1), min_size=1, max_size=30)


@given(tokens, tokens, tokens)
def test_it_is_the_share_of_equal_pairs(one: list[int], more: list[int], other: list[int]) -> None:
    tally = Tally()
    tally.add(np.int64(0), np.array(one))
    tally.add(np.int64(2), np.array(other))
    tally.add(np.int64(1), np.array(more))
    tally.add(np.int64(0), np.array(more))
    together = np.array([*one, *more, *more])
    expected = (together[:, None] == np.array(other)).mean()
    assert chance(tally.counts([0, 1]), tally.counts([2])) == pytest.approx(expected)
    ids, counts = tally.counts([0])
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {
        token: (one + more).count(token) for token in one + more
    }


def test_places_are_broadcast() -> None:
    tally = Tally()
    tally.add(np.array([[0, 1], [2, 1]]), np.array([[7, 8], [7, 9]]))
    assert [tally.counts([place])[0].tolist() for place in range(3)] == [[7], [8, 9], [7]]


def test_nothing_seen_has_no_chance() -> None:
    tally = Tally()
    assert np.isnan(chance(tally.counts([0]), tally.counts([1])))
    tally.add(np.int64(0), np.array([3]))
    assert np.isnan(chance(tally.counts([0]), tally.counts([1])))
    assert chance(tally.counts([0]), tally.counts([0])) == 1
