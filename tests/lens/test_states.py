"""States come in the order of the forward pass, the final one always."""

import pytest

from sdlms.lens.states import State, states_of


def test_every_layer() -> None:
    names = [state.name for state in states_of(3, range(3))]
    assert names == ["embedding", "block 0", "block 1", "block 2"]


def test_after_attention_comes_before_after_the_block() -> None:
    names = [state.name for state in states_of(3, [1], with_mid="attention")]
    assert names == ["embedding", "block 1 attention", "block 1", "block 2"]
    last = states_of(2, [1], with_mid="attention")
    assert last == [State("resid_pre", 0), State("resid_mid", 1), State("resid_post", 1)]


def test_order_and_repetition_do_not_matter() -> None:
    assert states_of(9, [5, 0, 5]) == states_of(9, [0, 5])
    assert states_of(9, []) == [State("resid_pre", 0), State("resid_post", 8)]


def test_a_later_input_of_a_block_has_a_name_of_its_own() -> None:
    assert State("resid_pre", 4).name == "before block 4"


@pytest.mark.parametrize(("n_layers", "layers"), [(3, [3]), (3, [-1, 1]), (0, [])])
def test_what_does_not_exist_is_refused(n_layers: int, layers: list[int]) -> None:
    with pytest.raises(ValueError, match="do not exist"):
        states_of(n_layers, layers)
