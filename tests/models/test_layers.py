"""Layers as indices, shares of the depth, or all."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.models.layers import (
    DEFAULT_LAYERS,
    check_layers,
    layer_at,
    layers_among,
    layers_of,
    named_layers,
)

depths = st.integers(1, 200)


@pytest.mark.parametrize(
    ("n_layers", "expected"), [(6, [2, 3, 5]), (24, [6, 12, 18]), (32, [8, 16, 24]), (1, [0])]
)
def test_the_default_shares_of_the_pythia_suite(n_layers: int, expected: list[int]) -> None:
    assert layers_of(DEFAULT_LAYERS, n_layers) == expected


@given(st.integers(0, 10_000), depths)
def test_relative_depth_rounds_half_up_exactly(basis_points: int, n_layers: int) -> None:
    exact = Fraction(basis_points, 10_000) * n_layers + Fraction(1, 2)
    expected = min(exact.numerator // exact.denominator, n_layers - 1)
    assert layer_at(basis_points / 10_000, n_layers) == expected
    assert layers_of((f"{basis_points / 100:.2f}%",), n_layers) == [expected]


def test_a_half_that_floats_miss_is_rounded_up() -> None:
    assert 0.29 * 50 < 14.5
    assert layer_at(0.29, 50) == 15


@given(depths)
def test_all_is_every_layer_and_whole_depth_is_the_last(n_layers: int) -> None:
    assert layers_of(("all",), n_layers) == list(range(n_layers))
    assert layers_of(("0%", "100%"), n_layers) == sorted({0, n_layers - 1})


@given(depths, st.data())
def test_layers_are_ascending_and_named_once(n_layers: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, n_layers - 1), min_size=1))
    words = tuple(str(index) for index in indices)
    assert layers_of(words, n_layers) == sorted(set(indices))
    assert layers_of((*words, *words), n_layers) == layers_of(words[::-1], n_layers)


@given(depths)
def test_indices_and_shares_mix(n_layers: int) -> None:
    assert layers_of(("50%", "0"), n_layers) == sorted({0, layer_at(0.5, n_layers)})


@pytest.mark.parametrize("layer", [6, 7, 10**8])
def test_an_index_beyond_the_model_names_the_last(layer: int) -> None:
    with pytest.raises(UserError, match=rf"no layer {layer}; the model has layers 0 to 5"):
        layers_of((str(layer),), 6)


@pytest.mark.parametrize(
    "word",
    *[["", "-1", "1.5", "x", "%", ".%", "101%", "25 %", "²%", "٣", "1e1%", "9" * 5000, "nan%"]],
)
def test_other_words_are_refused_by_name(word: str) -> None:
    with pytest.raises(UserError, match="neither an index") as error:
        check_layers((word,))
    assert f"'{word}'" in str(error.value)


def test_all_stands_alone_and_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="'all'"):
        check_layers(("all", "0"))
    with pytest.raises(UserError, match="--layers is empty"):
        check_layers(())


@given(st.lists(st.text(max_size=6), max_size=3), depths)
def test_any_words_give_layers_of_the_model_or_a_user_error(
    words: list[str], n_layers: int
) -> None:
    try:
        found = layers_of(tuple(words), n_layers)
    except UserError:
        return
    assert found and set(found) <= set(range(n_layers))


@given(st.sets(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_layers_of_a_run_are_those_that_it_holds(held: set[int], wanted: list[int]) -> None:
    words = tuple(map(str, wanted))
    assert layers_among(("all",), sorted(held), 10, "RUN") == sorted(held)
    if set(wanted) <= held:
        assert layers_among(words, sorted(held), 10, "RUN") == sorted(set(wanted))
        return
    absent = min(set(wanted) - held)
    with pytest.raises(UserError, match=rf"layer {absent} is not there; RUN holds layers? [0-9]"):
        layers_among(words, sorted(held), 10, "RUN")


def test_shares_are_of_the_model_s_depth_whatever_a_run_holds() -> None:
    assert layers_among(("50%",), [5, 7], 10, "RUN") == [5]
    with pytest.raises(UserError, match="the model has layers 0 to 9"):
        layers_among(("10",), [5, 7], 10, "RUN")


def test_one_layer_is_no_layers() -> None:
    assert named_layers([1]) == "layer 1"
    assert named_layers([1, 3]) == "layers 1, 3"
