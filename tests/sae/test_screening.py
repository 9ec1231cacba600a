"""Successive halving: which members go, that seeds go together, and what it saves."""

import pytest

from sdlms.sae.pupil import Pupil
from sdlms.sae.screening import RUNGS, kept, rungs_of, screen
from sdlms.sae.selection import Point, Rule, ranked
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


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (Rule("l0", 30), {0.1, 0.3}),  # 40 is nearer than 20, and L0 will fall
        (Rule("fvu", 0.2), {0.3, 1.0}),  # 40 is within it now, 20 may come to be
        (Rule("knee"), {0.1, 0.3}),
    ],
)
def test_half_goes_on_where_the_rule_will_look(rule: Rule, left: set[float]) -> None:
    pupils = pupils_at(FRONT, seeds=2)
    gone = screen(pupils, rule)
    assert len(gone) == 2 * 2 * 2  # layers, coefficients, seeds
    assert all(pupil.progress.ended == "screened" and pupil.best for pupil in gone)
    assert {p.member.recipe.coefficient for p in pupils if p.learns} == left


@pytest.mark.parametrize("n_points", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("rule", [Rule("knee"), Rule("l0", 20), Rule("fvu", 0.2), Rule("l0", 1e4)])
def test_the_one_that_the_rule_takes_now_always_goes_on(rule: Rule, n_points: int) -> None:
    points = [Point(2.0 * 2**i, 0.8 / 1.7**i) for i in range(n_points)]
    staying = kept(rule, points)
    assert len(staying) == (n_points + 1) // 2
    assert ranked(rule, points)[0][0] in staying
    assert 0 <= staying[0] <= staying[-1] < n_points


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
