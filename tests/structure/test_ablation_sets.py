"""Which units are ablated, against a plain loop over units."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.structure.ablation_sets import RANDOM_SETS, choose_sets, octaves_of


def random_units(n_units: int, n_tasks: int = 3, seed: int = 0) -> dict[str, NDArray[Any]]:
    """About a half is significant, a tenth dead, a tenth rare."""
    random = np.random.default_rng(seed)
    state = random.random(n_units)
    dead, rare = state < 0.1, (state >= 0.1) & (state < 0.2)
    index, q = random.random(n_units), random.random(n_units) / 10
    return {
        "SI_adjusted": np.where(dead, np.nan, index),
        "q": np.where(dead | rare, np.nan, q),
        "preferred_task": np.where(dead, -1, random.integers(n_tasks, size=n_units)),
        "fired": np.where(dead, 0, 1000),
        "dead": dead,
        "rare": rare,
    }


def by_hand(units: dict[str, NDArray[Any]], task: int, n_most: int) -> list[int]:
    found = []
    for unit in range(len(units["q"])):
        if units["dead"][unit] or units["rare"][unit] or units["preferred_task"][unit] != task:
            continue
        if units["q"][unit] < 0.05:
            found.append((-units["SI_adjusted"][unit], unit))
    return sorted(unit for _, unit in sorted(found)[:n_most])


@pytest.mark.parametrize(("n_units", "n_most"), [(1, 1), (20, 1), (21, 2), (140, 7), (384, 20)])
def test_the_most_specialized_of_each_task_a_twentieth_of_the_layer(
    n_units: int, n_most: int
) -> None:
    units = random_units(n_units)
    sets = choose_sets(units, 3, (0,))
    assert [own.specialized.tolist() for own in sets] == [
        by_hand(units, t, n_most) for t in (0, 1, 2)
    ]
    assert max(len(own.specialized) for own in sets) <= n_most


def test_random_sets_are_as_large_scored_and_of_no_task() -> None:
    units = random_units(200)
    sets = choose_sets(units, 3, (0,))
    chosen = np.concatenate([own.specialized for own in sets])
    for own in sets:
        assert len(own.random) == RANDOM_SETS
        assert not own.reason
        for one in own.random:
            assert len(set(one.tolist())) == len(own.specialized) == 10
            assert not np.isin(one, chosen).any()
            assert not (units["dead"] | units["rare"])[one].any()
            assert one.tolist() == sorted(one.tolist())
    assert len({tuple(one.tolist()) for one in sets[0].random}) == RANDOM_SETS


def test_they_depend_on_the_seed_and_are_shared_by_tasks() -> None:
    units = random_units(200)
    one, again, other = (choose_sets(units, 3, seed) for seed in ((0, 1), (0, 1), (0, 2)))

    def random(sets: list[Any]) -> list[list[list[int]]]:
        return [[each.tolist() for each in own.random] for own in sets]

    assert random(one) == random(again) != random(other)
    assert random(one)[0] == random(one)[1] == random(one)[2]


def test_every_unit_is_drawn_about_as_often() -> None:
    units = random_units(60)
    drawn = np.zeros(60)
    for seed in range(400):
        for each in choose_sets(units, 3, (seed,))[0].random:
            drawn[each] += 1
    pool = drawn[drawn > 0]
    assert len(pool) == (~(units["dead"] | units["rare"])).sum() - 9
    assert pool.std() / pool.mean() < 2 * pool.mean() ** -0.5


def uneven_units(n_units: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Rates over three decades; specialized units fire more than others."""
    random = np.random.default_rng(seed)
    units = random_units(n_units, seed=seed)
    fired = 10 ** random.uniform(2, 5, size=n_units)
    units["SI_adjusted"] = np.log10(fired) + random.normal(size=n_units)
    units["fired"] = np.where(units["dead"], 0, fired.astype(np.int64))
    return units


def test_random_units_fire_about_as_often() -> None:
    for seed in range(5):
        units = uneven_units(800, seed=seed)
        everyone = units["fired"][~(units["dead"] | units["rare"])].mean()
        for own in choose_sets(units, 3, (seed,)):
            wanted = units["fired"][own.specialized].mean()
            matched = np.mean([units["fired"][one].mean() for one in own.random])
            assert wanted > 1.3 * everyone
            assert 0.75 < matched / wanted < 1.25
            scored = ~(units["dead"] | units["rare"])
            octaves = octaves_of(units["fired"], scored)
            for one in own.random:
                assert len(set(one.tolist())) == len(own.specialized)
                assert np.abs(np.sort(octaves[one]) - np.sort(octaves[own.specialized])).max() <= 1


def test_where_an_octave_has_too_few_the_nearest_are_taken() -> None:
    units = specialists([0, 0, 0, 1, 1, 1, 1, 1], 8)
    units["q"][3:] = 1.0
    units["fired"] = np.array([400, 25, 50, 410, 190, 60, 55, 7000])
    own = choose_sets(units, 2, (0,))[0]
    assert own.specialized.tolist() == [0]  # one in twenty, rounded up
    assert {tuple(one.tolist()) for one in own.random} == {(3,)}
    units["fired"][3] = 7000
    own = choose_sets(units, 2, (0,))[0]
    assert {tuple(one.tolist()) for one in own.random} == {(4,)}


def test_an_octave_is_a_factor_of_two_round_the_median() -> None:
    scored = np.array([True] * 7 + [False])
    fired = np.array([100, 72, 140, 50, 200, 75, 1600, 0])
    assert octaves_of(fired, scored).tolist() == [0, 0, 0, -1, 1, 0, 4, 0]
    assert octaves_of(3 * fired, scored).tolist() == octaves_of(fired, scored).tolist()
    assert octaves_of(fired, np.zeros(8, dtype=bool)).tolist() == [0] * 8


def test_sets_of_other_rates_are_other_sets() -> None:
    units = specialists([0, 1, *[2] * 60], 62)
    units["q"][2:], units["preferred_task"][2:] = 1.0, 0
    units["fired"][32:] = 800
    units["fired"][1] = 800
    first, second, _ = choose_sets(units, 3, (0,))
    assert all(one.max() < 32 for one in first.random)
    assert all(one.min() >= 32 for one in second.random)


def specialists(preferred: list[int], n_scored: int) -> dict[str, NDArray[Any]]:
    n_units = len(preferred)
    return {
        "SI_adjusted": np.full(n_units, 0.5),
        "q": np.full(n_units, 0.01),
        "preferred_task": np.array(preferred),
        "fired": np.full(n_units, 80),
        "dead": np.arange(n_units) >= n_scored,
        "rare": np.zeros(n_units, dtype=bool),
    }


def test_where_few_are_left_they_may_be_of_another_task() -> None:
    first, second, third = choose_sets(specialists([0, 1], 2), 3, (0,))
    assert [each.tolist() for each in first.random] == [[1]] * RANDOM_SETS
    assert [each.tolist() for each in second.random] == [[0]] * RANDOM_SETS
    assert (len(third.specialized), third.random) == (0, [])
    assert third.reason == "no scored unit with q < 0.05 prefers the task"


def test_where_none_are_left_there_is_a_reason() -> None:
    (only,) = choose_sets(specialists([0, 0], 1), 1, (0,))
    assert (only.specialized.tolist(), only.random) == ([0], [])
    assert only.reason == "0 other scored units, too few for a random set of 1"


def test_indices_that_are_nan_choose_nothing() -> None:
    """Of one task alone nothing is known."""
    units = random_units(40, 1)
    units["SI_adjusted"] = units["q"] = np.full(40, np.nan)
    (only,) = choose_sets(units, 1, (0,))
    assert not len(only.specialized)
    assert only.reason
