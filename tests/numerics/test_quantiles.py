import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdlms.numerics.quantiles import (
    bits_of_keys,
    column_quantile,
    ordered_keys,
    quantile_rank,
)

FINITE = st.floats(-60000, 60000, width=16)


@given(st.lists(FINITE, min_size=2, max_size=50))
def test_keys_are_in_the_order_of_the_floats(values: list[float]) -> None:
    floats = np.array(values, dtype=np.float16)
    keys = ordered_keys(floats.view(np.uint16))
    for a, key_a in zip(floats, keys, strict=True):
        for b, key_b in zip(floats, keys, strict=True):
            if a < b:
                assert key_a < key_b


def test_every_float16_survives_the_round_trip() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    assert np.array_equal(bits_of_keys(ordered_keys(bits)), bits)


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 60)), elements=FINITE))
def test_quantile_agrees_with_numpys_inverted_cdf(values: np.ndarray) -> None:
    expected = np.quantile(values, 0.9, axis=1, method="inverted_cdf")
    assert np.array_equal(column_quantile(values.copy(), 0.9), expected)


@given(arrays(np.float32, st.tuples(st.just(1), st.integers(1, 200)), elements=FINITE))
def test_at_most_a_tenth_lies_above(values: np.ndarray) -> None:
    threshold = column_quantile(values.copy(), 0.9)[0]
    assert (values > threshold).mean() <= 0.1 + 1e-12
    assert (values >= threshold).mean() >= 0.1 - 1e-12


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 100, 99_999])
def test_rank_is_the_smallest_that_reaches_the_fraction(n: int) -> None:
    rank = quantile_rank(n, 0.9)
    assert 10 * (rank + 1) >= 9 * n
    assert rank == 0 or 10 * rank < 9 * n
    assert rank == math.ceil(9 * n / 10) - 1
