from typing import Any

import numpy as np
import pytest

from sdlms.dynamic.specialist_sets import (
    NEAREST,
    LayerUnits,
    random_like,
    read_units,
    specialists_of,
)
from sdlms.structure.ablation_sets import choose_sets


def units_of(n_units: int, seed: int = 0) -> LayerUnits:
    """Random ones, of three tasks."""
    random = np.random.default_rng(seed)
    specialization = random.uniform(size=n_units)
    specialization[random.uniform(size=n_units) < 0.05] = np.nan
    return LayerUnits(
        preferred=random.integers(-1, 3, size=n_units),
        specialization=specialization,
        q=np.where(np.isnan(specialization), np.nan, random.uniform(0, 0.1, size=n_units)),
        scored=random.uniform(size=n_units) < 0.9,
        community=np.full(n_units, -1),
    )


@pytest.mark.parametrize("seed", range(5))
def test_specialists_are_those_that_si_modularity_ablates(seed: int) -> None:
    units = units_of(400, seed)
    asked: dict[str, Any] = {
        "SI_adjusted": units.specialization,
        "q": units.q,
        "preferred_task": units.preferred,
        "fired": np.full(400, 100),
        "dead": ~units.scored,
        "rare": np.zeros(400, dtype=np.bool_),
    }
    expected = choose_sets(asked, 3, (0, 0))
    for own, other in zip(specialists_of(units, 3), expected, strict=True):
        assert len(own)
        assert own.tolist() == other.specialized.tolist()


def test_a_task_without_discoveries_has_no_specialist() -> None:
    units = units_of(50)
    found = specialists_of(units._replace(q=np.full(50, 0.05)), 3)
    assert [len(own) for own in found] == [0, 0, 0]


def test_random_neurons_are_others_and_kept_about_as_often() -> None:
    random = np.random.default_rng(0)
    kept = random.integers(0, 1000, size=600)
    specialists = np.sort(random.choice(600, 30, replace=False))
    others = np.setdiff1d(np.arange(500), specialists)
    for seed in range(5):
        found = random_like(specialists, others, kept, np.random.default_rng(seed))
        assert found is not None
        assert len(set(found.tolist())) == 30
        assert set(found.tolist()) <= set(others.tolist())
        assert (np.diff(found) > 0).all()
        assert kept[found].mean() == pytest.approx(kept[specialists].mean(), abs=15)


def test_each_random_neuron_is_among_the_nearest() -> None:
    kept = np.random.default_rng(1).integers(0, 50, size=200)
    others = np.arange(1, 200)
    distances = np.sort(np.abs(kept[others] - kept[0]))
    drawn = set()
    for seed in range(200):
        found = random_like(np.array([0]), others, kept, np.random.default_rng(seed))
        assert found is not None
        assert np.abs(kept[found[0]] - kept[0]) <= distances[NEAREST - 1]
        drawn.add(int(found[0]))
    assert len(drawn) >= NEAREST


def test_too_few_other_neurons_make_no_set_and_just_enough_make_one() -> None:
    kept, generator = np.arange(10), np.random.default_rng(0)
    assert random_like(np.arange(6), np.arange(6, 10), kept, generator) is None
    found = random_like(np.arange(4), np.arange(6, 10), kept, generator)
    assert found is not None
    assert found.tolist() == [6, 7, 8, 9]


def row_of(unit: int, **cells: str) -> dict[str, str]:
    """A row of `units.csv`."""
    plain = {"SI_adjusted": "0.25", "q": "0.01", "preferred_task": "qa", "dead": "0", "rare": "0"}
    return {"unit": str(unit), "community": "", **plain, **cells}


def test_cells_that_are_empty_or_nan_are_read() -> None:
    dead = {"SI_adjusted": "nan", "q": "nan", "preferred_task": "", "dead": "1"}
    rows = [row_of(0, community="0"), row_of(1, **dead), row_of(2, rare="1", community="7")]
    found = read_units(rows, {"math": 0, "qa": 1})
    assert found.preferred.tolist() == [1, -1, 1]
    assert found.scored.tolist() == [True, False, False]
    assert found.community.tolist() == [0, -1, 7]
    assert np.isnan(found.specialization).tolist() == [False, True, False]


def test_a_missing_neuron_or_an_unknown_task_is_seen() -> None:
    with pytest.raises(ValueError, match="missing"):
        read_units([row_of(0), row_of(2)], {"qa": 0})
    with pytest.raises(KeyError):
        read_units([row_of(0)], {"math": 0})
