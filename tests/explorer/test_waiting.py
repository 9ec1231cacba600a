import numpy as np

from sdlms.explorer.waiting import WaitingStates

ROW = np.ones((2, 4), np.float32)


def states(*values: float) -> np.ndarray:
    return np.stack([ROW * value for value in values])


def test_states_are_held_by_conversation_and_position() -> None:
    waiting = WaitingStates(1 << 20)
    waiting.add("a", 5, states(5, 6))
    waiting.add("b", 5, states(7))
    assert waiting.get("a", 6) is not None
    np.testing.assert_array_equal(waiting.get("a", 6), ROW * 6)
    np.testing.assert_array_equal(waiting.get("b", 5), ROW * 7)
    assert waiting.get("b", 6) is None
    assert waiting.n_bytes == 3 * ROW.nbytes


def test_the_oldest_go_when_there_are_too_many_bytes() -> None:
    waiting = WaitingStates(3 * ROW.nbytes)
    waiting.add("a", 0, states(0, 1))
    waiting.add("b", 0, states(2, 3))
    assert waiting.get("a", 0) is None
    assert all(waiting.get(*key) is not None for key in (("a", 1), ("b", 0), ("b", 1)))
    assert waiting.n_bytes == 3 * ROW.nbytes


def test_more_than_fits_at_once_keeps_the_end_of_it() -> None:
    waiting = WaitingStates(ROW.nbytes)
    waiting.add("a", 0, states(0, 1, 2))
    assert waiting.get("a", 2) is not None
    assert waiting.n_bytes == ROW.nbytes


def test_what_is_dropped_or_replaced_is_counted_once() -> None:
    waiting = WaitingStates(1 << 20)
    waiting.add("a", 0, states(0, 1))
    waiting.add("a", 1, states(9))
    np.testing.assert_array_equal(waiting.get("a", 1), ROW * 9)
    assert waiting.n_bytes == 2 * ROW.nbytes
    waiting.drop("a", [0, 4])
    assert waiting.n_bytes == ROW.nbytes
    waiting.forget("a")
    assert (waiting.n_bytes, waiting.get("a", 1)) == (0, None)
