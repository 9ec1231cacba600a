import numpy as np

from sdlms.explorer.waiting import WaitingStates

ROW = np.ones((2, 4), np.float32)


def states(*values: float) -> np.ndarray:
    return np.stack([ROW * value for value in values])


def held(waiting: WaitingStates, conversation: str, n_tokens: int = 9) -> list[int]:
    """Positions that are there."""
    return [p for p in range(n_tokens) if waiting.get(conversation, p) is not None]


def test_states_are_held_by_conversation_and_position() -> None:
    waiting = WaitingStates(1 << 20)
    waiting.add("a", 5, states(5, 6))
    waiting.add("b", 5, states(7))
    assert waiting.get("a", 6) is not None
    np.testing.assert_array_equal(waiting.get("a", 6), ROW * 6)
    np.testing.assert_array_equal(waiting.get("b", 5), ROW * 7)
    assert (held(waiting, "a"), held(waiting, "b")) == ([5, 6], [5])


def test_the_oldest_go_when_there_are_too_many_bytes() -> None:
    waiting = WaitingStates(3 * ROW.nbytes)
    waiting.add("a", 0, states(0, 1))
    waiting.add("b", 0, states(2, 3))
    assert (held(waiting, "a"), held(waiting, "b")) == ([1], [0, 1])


def test_more_than_fits_at_once_keeps_the_end_of_it() -> None:
    waiting = WaitingStates(ROW.nbytes)
    waiting.add("a", 0, states(0, 1, 2))
    assert held(waiting, "a") == [2]


def test_what_is_replaced_is_counted_once() -> None:
    waiting = WaitingStates(2 * ROW.nbytes)
    waiting.add("a", 0, states(0, 1))
    for value in range(9):
        waiting.add("a", 1, states(value))
    assert held(waiting, "a") == [0, 1]
    np.testing.assert_array_equal(waiting.get("a", 1), ROW * 8)


def test_what_is_dropped_or_forgotten_makes_room() -> None:
    waiting = WaitingStates(3 * ROW.nbytes)
    waiting.add("a", 0, states(0, 1, 2))
    waiting.drop("a", [0, 4])
    waiting.add("b", 0, states(3))
    assert (held(waiting, "a"), held(waiting, "b")) == ([1, 2], [0])
    waiting.forget("a")
    waiting.add("b", 1, states(4, 5))
    assert (held(waiting, "a"), held(waiting, "b")) == ([], [0, 1, 2])
