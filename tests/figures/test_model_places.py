"""Models on an axis: each at its size, those of one size side by side, none on another."""

import pytest

from sdlms.figures.model_places import Places

SIZES = {"large": 1e9, "small": 1e6, "medium-relu": 1.01e7, "medium": 1e7}


def test_models_of_like_size_are_a_group() -> None:
    places = Places(SIZES)
    assert [list(group) for group in places.groups] == [
        ["small"],
        ["medium", "medium-relu"],
        ["large"],
    ]
    assert places.shared and not Places({"a": 1e6, "b": 2e6}).shared


def test_a_line_leads_from_a_size_to_the_next_where_one_model_is_of_each() -> None:
    places = Places({"a": 1e6, "b": 1e7, "c": 1e8, "c2": 1.01e8, "d": 1e9})
    pairs = [(one, other) for one in "abcd" for other in "abcd" if places.neighbours(one, other)]
    assert pairs == [("a", "b")]
    assert Places({"a": 1e6, "c": 1e8}).neighbours("a", "c")


def test_points_stand_apart_and_near_their_size() -> None:
    places = Places(SIZES)
    found = [
        places.of(model, line, 3)
        for model in ("small", "medium", "medium-relu", "large")
        for line in range(3)
    ]
    assert found == sorted(set(found))
    for model, size in SIZES.items():
        assert all(0.4 < places.of(model, line, 3) / size < 2.5 for line in range(3))


def test_a_line_alone_stands_where_its_model_does() -> None:
    assert Places(SIZES).of("large", 0, 1) == pytest.approx(1e9)
    assert Places(SIZES).of("small", 1, 3) == pytest.approx(1e6)


def test_models_of_one_size_only_are_no_reason_to_stop() -> None:
    places = Places({"a": 1e6, "b": 1e6})
    assert places.of("a", 0, 1) < 1e6 < places.of("b", 0, 1)
    assert places.middle(places.groups[0]) == pytest.approx(1e6)
