"""Which units are ablated, against a plain loop over units."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.structure.ablation_sets import RANDOM_SETS, choose_sets


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


def specialists(preferred: list[int], n_scored: int) -> dict[str, NDArray[Any]]:
    n_units = len(preferred)
    return {
        "SI_adjusted": np.full(n_units, 0.5),
        "q": np.full(n_units, 0.01),
        "preferred_task": np.array(preferred),
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
