"""Successive halving: which members go, that seeds go together, and what it saves."""

import pytest

from sdlms.sae.pupil import Pupil
from sdlms.sae.screening import RUNGS, rungs_of, screen
from sdlms.sae.selection import Rule
from tests.sae.sweeps import CPU, small_members


def pupils_at(points: dict[float, tuple[float, float]], seeds: int = 1) -> list[Pupil]:
    """Members of two layers whose last evaluation found L0 and FVU."""
    import torch

    from sdlms.sae.initial import initial_weights
    from sdlms.sae.standard import StandardLearner

    pupils = []
    for member in small_members(tuple(points), range(seeds)):
        initial = initial_weights(member.recipe, torch.zeros(8))
        pupil = Pupil(member, StandardLearner(member.recipe, initial, torch.float32, CPU), 1.0)
        l0, fvu = points[member.recipe.coefficient]
        pupil.progress.curve.append({"l0": l0, "explained_variance": 1 - fvu})
        pupils.append(pupil)
    return pupils


FRONT = {0.1: (100.0, 0.05), 0.3: (40.0, 0.1), 1.0: (20.0, 0.3), 3.0: (8.0, 0.7)}


def test_half_of_the_coefficients_go_the_farthest_from_the_rule_first() -> None:
    pupils = pupils_at(FRONT, seeds=2)
    gone = screen(pupils, Rule("l0", 30))
    assert {pupil.member.recipe.coefficient for pupil in gone} == {0.1, 3.0}
    assert len(gone) == 2 * 2 * 2  # layers, coefficients, seeds
    assert all(pupil.progress.ended == "screened" and pupil.best for pupil in gone)
    second = screen(pupils, Rule("l0", 30))
    assert len(second) == 2 * 2
    assert len({p.member.recipe.coefficient for p in pupils if p.learns}) == 1


def test_the_knee_survives() -> None:
    pupils = pupils_at(FRONT)
    screen(pupils, Rule("knee"))
    screen(pupils, Rule("knee"))
    assert {p.member.recipe.coefficient for p in pupils if p.learns} == {0.3}


def test_one_coefficient_is_never_given_up() -> None:
    pupils = pupils_at({0.3: (40.0, 0.1)})
    assert screen(pupils, Rule("knee")) == []


@pytest.mark.parametrize(("n_members", "most"), [(2, 0.6), (3, 0.6), (4, 0.5), (8, 0.5)])
def test_a_screened_sweep_costs_at_most_six_tenths(n_members: int, most: float) -> None:
    left, cost, before = n_members, 0.0, 0.0
    for rung in (*RUNGS, 1.0):
        cost, before = cost + left * (rung - before), rung
        left = (left + 1) // 2
    assert cost <= most * n_members + 1e-9


def test_rungs_are_evaluations() -> None:
    assert rungs_of(1000, 25) == [200, 500]
    assert rungs_of(60, 1) == [12, 30]
    assert rungs_of(3, 1) == [1, 2]
