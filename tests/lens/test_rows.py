"""Where the most probable token is decided."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sdlms.lens.rows import decided_at, empty_rows
from sdlms.lens.states import states_of


def by_hand(first: list[int], layers: list[int]) -> int:
    place = len(first) - 1
    while place > 0 and first[place - 1] == first[-1]:
        place -= 1
    return layers[place]


def test_by_hand_for_every_pattern() -> None:
    states = states_of(3, range(3))
    first = np.stack(np.meshgrid(*[range(3)] * 4), axis=-1).reshape(-1, 4)
    top_ids = np.stack([first, first + 5], axis=-1)
    expected = [by_hand(row, [-1, 0, 1, 2]) for row in first.tolist()]
    found = decided_at(top_ids, states)
    assert_array_equal(found, expected)
    assert found.dtype == np.int32
    assert set(expected) == {-1, 0, 1, 2}


def test_layers_that_were_left_out_are_not_named() -> None:
    states = states_of(9, [2, 5])
    assert_array_equal(decided_at(np.array([[[1], [1], [3], [3]]]), states), [5])
    assert_array_equal(decided_at(np.array([[[3], [3], [3], [3]]]), states), [-1])
    assert_array_equal(decided_at(np.array([[[3], [3], [3], [4]]]), states), [8])


def test_states_after_attention_do_not_count() -> None:
    states = states_of(2, range(2), with_mid="attention")
    assert_array_equal(decided_at(np.array([[[0], [7], [1], [7], [1]]]), states), [0])


def test_no_tokens() -> None:
    assert decided_at(np.empty((0, 2, 5), np.int32), states_of(1, [0])).shape == (0,)


def test_states_must_be_those_of_the_axis() -> None:
    with pytest.raises(ValueError, match="3 states for an axis of 2"):
        decided_at(np.zeros((1, 2, 1), np.int32), states_of(2, range(2)))


def test_empty_rows_have_the_documented_shapes_and_types() -> None:
    rows = empty_rows(4, 3, 10, 2)
    shapes = {name: values.shape for name, values in rows._asdict().items()}
    assert shapes["top_ids"] == shapes["top_probabilities"] == (4, 3, 10)
    assert shapes["pin_rank"] == shapes["pin_log_probability"] == (4, 3, 2)
    assert {shapes[name] for name in ("entropy_nats", "log_normalizer", "next_rank")} == {(4, 3)}
    for name, values in rows._asdict().items():
        whole = name.endswith(("rank", "ids"))
        assert values.dtype == (np.int32 if whole else np.float32)
