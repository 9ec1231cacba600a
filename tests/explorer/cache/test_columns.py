import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sdlms.errors import UserError
from sdlms.explorer.cache.columns import (
    HALF_MAX,
    Columns,
    StoreHidden,
    pack_hidden,
    packed,
    predicted_bytes,
    store_hidden_of,
    unpack_hidden,
    unpacked,
)
from tests.explorer.cached_rows import SMALL, are_equal, random_rows

SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, max_side=4)
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def test_gpt2_takes_less_than_100_mb_for_1000_tokens_and_larger_models_less_exact_ways() -> None:
    assert predicted_bytes(Columns(13, 768, 10, "fp16"), 1_000) < 100_000_000
    assert store_hidden_of("auto", 13, 768, 10) == "fp16"
    assert store_hidden_of("auto", 33, 2_560, 10) == "int8"
    assert store_hidden_of("auto", 33, 4_096, 10) == "none"


@pytest.mark.parametrize("name", ["none", "fp16", "int8"])
def test_what_is_named_is_taken(name: str) -> None:
    assert store_hidden_of(name, 10**6, 10**6, 10) == name


def test_an_unknown_way_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--store-hidden must be auto, none, fp16, int8; got 'x'"):
        store_hidden_of("x", 1, 1, 1)


@pytest.mark.parametrize("kind", ["none", "fp16", "int8"])
def test_predicted_bytes_are_those_of_the_arrays(kind: StoreHidden) -> None:
    columns = Columns(3, 5, 2, kind)
    lens = 2 * sum(array[0].nbytes for array in random_rows("logit", 1, 0, columns).values())
    hidden = {"none": 0, "fp16": 3 * (2 * 5 + 4 + 4), "int8": 3 * (5 + 4 + 4)}[kind]
    assert predicted_bytes(columns, 7) == 7 * (lens + 2 * 4 + hidden)


@given(arrays.arrays(np.float16, SHAPES, elements=st.floats(width=16)))
def test_float16_comes_back_bit_by_bit(hidden: np.ndarray) -> None:
    found = unpack_hidden(**pack_hidden(hidden, "fp16"))
    assert found.dtype == np.float16 and found.tobytes() == hidden.tobytes()


@given(arrays.arrays(np.float32, SHAPES, elements=FINITE))
def test_fp16_is_off_by_half_a_unit_in_the_last_place(hidden: np.ndarray) -> None:
    largest = np.abs(hidden).max(axis=2, keepdims=True)
    scale = np.maximum(1, largest / HALF_MAX)
    found = unpack_hidden(**pack_hidden(hidden, "fp16"))
    assert (found.dtype == np.float16) == bool((largest <= HALF_MAX).all())
    bound = np.maximum(np.abs(hidden) * 2.0**-11, scale * 2.0**-25) * (1 + 1e-6)
    assert (np.abs(found.astype(np.float64) - hidden) <= bound).all()


@given(arrays.arrays(np.float32, SHAPES, elements=FINITE))
def test_int8_is_off_by_half_a_step(hidden: np.ndarray) -> None:
    parts = pack_hidden(hidden, "int8")
    assert parts["values"].dtype == np.int8
    found = unpack_hidden(**parts).astype(np.float64)
    largest = np.abs(hidden).max(axis=2, keepdims=True)
    assert (np.abs(found - hidden) <= largest / 127 * (0.5 + 1e-4) + 1e-38).all()
    assert (np.abs(found) <= largest * (1 + 1e-6)).all()


def test_int8_is_symmetric_and_keeps_zero() -> None:
    hidden = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    hidden[0, 0] = 0
    both = [unpack_hidden(**pack_hidden(x, "int8")) for x in (hidden, -hidden)]
    assert np.array_equal(both[0], -both[1])
    assert not both[0][0, 0].any()


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_survive_in_fp16(strange: float) -> None:
    hidden = np.full((2, 2, 3), 1e5, np.float32)
    hidden[0, 1, 2] = strange
    found = unpack_hidden(**pack_hidden(hidden, "fp16"))
    assert np.array_equal(found[0, 1, 2], np.float32(strange), equal_nan=True)
    finite = np.isfinite(hidden)
    assert np.allclose(found[finite], 1e5, rtol=1e-3)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_nan_throughout_in_int8(strange: float) -> None:
    hidden = np.ones((2, 2, 3), np.float32)
    hidden[0, 1, 2] = strange
    found = unpack_hidden(**pack_hidden(hidden, "int8"))
    assert np.isnan(found[0, 1]).all()
    assert np.array_equal(found[[0, 1, 1], [0, 0, 1]], np.ones((3, 3), np.float32))


@pytest.mark.parametrize("group", ["hidden", "logit", "tuned"])
def test_packing_copies_and_comes_back(group: str) -> None:
    rows = random_rows(group, 4, seed=0)
    kept = packed(SMALL, group, rows)
    expected = {name: array.copy() for name, array in rows.items()}
    for array in rows.values():
        array[:] = 0
    assert are_equal(unpacked(group, kept), expected)


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("hidden", {"hidden": np.zeros((2, 3, 5), np.float32)}),
        ("hidden", {"hidden": np.zeros((2, 3, 4), np.int32)}),
        ("hidden", {"more": np.zeros((2, 3, 4), np.float32)}),
        ("logit", {"more": np.zeros(2)}),
        ("logit", {"next_rank": np.zeros((2, 3), np.int64)}),
        ("logit", {"next_rank": np.zeros((2, 4), np.int32)}),
        ("logit", {"next_rank": np.zeros((3, 3), np.int32)}),
    ],
)
def test_other_arrays_are_a_bug(group: str, change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"hidden|logit|next_rank"):
        packed(SMALL, group, {**random_rows(group, 2, seed=0), **change})


def test_a_missing_array_is_a_bug() -> None:
    rows = random_rows("tuned", 2, seed=0)
    del rows["entropy_nats"]
    with pytest.raises(ValueError, match="entropy_nats"):
        packed(SMALL, "tuned", rows)
