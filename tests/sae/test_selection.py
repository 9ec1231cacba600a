"""Which member is taken: each rule by hand, its edges, and never the best reconstruction alone."""

import math

import pytest

from sdlms.errors import UserError
from sdlms.sae.selection import Point, Rule, front_of, ranked, rule_of

# Measured on synthetic data with a known dictionary; L1 0.15, 0.3, 0.6, 1.2, 2.4. The matched
# cosine to the truth is .48, .57, .76, .95, .975.
MEASURED = [
    Point(185, 0.019, 0.99),
    Point(143, 0.049, 0.97),
    Point(93, 0.114, 0.93),
    Point(48, 0.225, 0.85),
    Point(26, 0.436, 0.6),
]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("knee", Rule("knee")),
        ("l0=32", Rule("l0", 32.0)),
        ("fvu=0.1", Rule("fvu", 0.1)),
        ("ce=0.9", Rule("ce", 0.9)),
    ],
)
def test_rules_are_read_and_written_alike(text: str, rule: Rule) -> None:
    assert rule_of(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize("text", ["", "best", "fvu", "l0=", "l0=x", "l0=1e", "mse=3", "knee=2"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected knee, l0=32, fvu=0\.1 or ce=0\.9"):
        rule_of(text)


@pytest.mark.parametrize("text", ["l0=0", "l0=-3", "fvu=0", "fvu=1", "ce=1.5", "ce=-1"])
def test_numbers_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="the number must be"):
        rule_of(text)


def test_the_knee_is_neither_end_and_a_good_dictionary() -> None:
    order, reason = ranked(Rule("knee"), MEASURED)
    assert order[0] == 3
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert "L0 48.0" in reason


def test_the_knee_does_not_depend_on_the_order_of_the_members() -> None:
    turned = MEASURED[::-1]
    assert turned[ranked(Rule("knee"), turned)[0][0]] == MEASURED[3]


def test_dominated_members_come_last() -> None:
    points = [*MEASURED, Point(60, 0.3)]
    assert ranked(Rule("knee"), points)[0][-1] == 5
    assert front_of(points) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("points", "first"),
    [
        ([Point(10, 0.4), Point(30, 0.1)], 0),
        ([Point(10, 0.6), Point(30, 0.1)], 1),
        ([Point(10, 0.4), Point(20, 0.45), Point(30, 0.1)], 0),
        ([Point(10, 0.9), Point(30, 0.85)], 1),
        ([Point(10, 0.4), Point(20, 0.39), Point(40, 0.1)], 0),  # above the chord
    ],
)
def test_without_a_knee_the_sparsest_that_explains_half_is_taken(
    points: list[Point], first: int
) -> None:
    order, reason = ranked(Rule("knee"), points)
    assert order[0] == first
    assert "have no knee" in reason


@pytest.mark.parametrize(
    "dead", [Point(0, 1.0), Point(0.004, 0.9997), Point(40, 1.2), Point(0, 0.9)]
)
@pytest.mark.parametrize("rule", [Rule("knee"), Rule("l0", 1.0), Rule("fvu", 0.9), Rule("ce", 0.5)])
def test_what_has_collapsed_is_never_taken_and_bends_no_front(rule: Rule, dead: Point) -> None:
    alive = [Point(60, 0.05, 0.99), Point(30, 0.1, 0.97), Point(12, 0.3, 0.8)]
    order, reason = ranked(rule, [dead, *alive])
    expected, why = ranked(rule, alive)
    assert order == [*(i + 1 for i in expected), 0]
    assert reason == why


def test_of_what_has_collapsed_alone_the_least_silent_is_taken() -> None:
    order, reason = ranked(Rule("knee"), [Point(0.1, 0.99), Point(0.5, 1.0), Point(0, 1.0)])
    assert order == [1, 0, 2]
    assert "all have collapsed" in reason
    assert ranked(Rule("knee"), [Point(0, 1.0), Point(3, 0.9)]) == (
        [1, 0],
        "the only one that has not collapsed",
    )


def test_the_target_is_met_on_the_scale_of_ratios() -> None:
    assert ranked(Rule("l0", 60), MEASURED)[0][0] == 3
    points = [Point(10, 0.5), Point(45, 0.1)]
    assert ranked(Rule("l0", 22), points)[0] == [1, 0]
    assert ranked(Rule("l0", 21), points)[0] == [0, 1]


def test_the_sparsest_within_the_bound_is_taken() -> None:
    assert ranked(Rule("fvu", 0.12), MEASURED)[0] == [2, 1, 0, 3, 4]
    order, reason = ranked(Rule("ce", 0.9), MEASURED)
    assert order == [2, 1, 0, 3, 4]
    assert reason.startswith("the sparsest with ce=0.9: L0 93.0")


def test_out_of_reach_the_nearest_is_taken_and_it_is_said() -> None:
    order, reason = ranked(Rule("fvu", 0.01), MEASURED)
    assert order[0] == 0
    assert reason == "none reaches fvu=0.01; the nearest has FVU 0.0190"
    points = [Point(10, 0.2, math.nan), Point(20, 0.1, 0.5)]
    assert ranked(Rule("ce", 0.9), points)[0] == [1, 0]


def test_of_equal_l0_the_better_reconstruction_is_taken() -> None:
    points = [Point(10, 0.4), Point(10, 0.2), Point(30, 0.1)]
    assert ranked(Rule("fvu", 0.5), points)[0][0] == 1
    assert ranked(Rule("l0", 10), points)[0][0] == 1


def test_a_rule_that_says_nothing_is_not_pretended_to_have_been_applied() -> None:
    points = [Point(10, 0.6), Point(20, 0.2), Point(60, 0.1)]
    order, reason = ranked(Rule("ce", 0.9), points)
    assert order[0] == 1
    assert reason.startswith(
        "ce=0.9 says nothing, for no cross-entropy recovered is known; the knee"
    )


def test_one_member_is_taken_whatever_it_is() -> None:
    assert ranked(Rule("ce", 0.9), [Point(3, 0.9)]) == ([0], "the only one")


def test_no_rule_takes_the_best_reconstruction_only_because_it_is() -> None:
    for rule in (Rule("knee"), Rule("l0", 32), Rule("fvu", 0.25), Rule("ce", 0.8)):
        assert ranked(rule, MEASURED)[0][0] != 0
