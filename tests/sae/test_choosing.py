"""Which member is taken at each layer, and what is recorded of the others."""

import math

import pytest

from sdlms.sae.choosing import choose
from sdlms.sae.measuring import Row
from sdlms.sae.selection import rule_of

# coefficient -> L0, FVU, cross-entropy recovered; the front bends at 1.
FRONT = {0.3: (64.0, 0.05, 0.99), 1.0: (16.0, 0.1, 0.95), 3.0: (4.0, 0.6, 0.5)}


def rows_of(layer: int = 2, screened: tuple[float, ...] = (), seeds: int = 2) -> list[Row]:
    """Each seed a little off to either side."""
    return [
        {
            "layer": layer,
            "member": f"l1_{coefficient:g}_seed{seed}",
            "coefficient": coefficient,
            "selected": 0,
            "screened": int(coefficient in screened),
            "l0": l0 + (-1) ** seed,
            "fvu": fvu + (-1) ** seed * 0.001,
            "ce_recovered": math.nan if coefficient in screened else ce,
            "pca_components": round(l0),
            "pca_fvu": 0.9,
        }
        for coefficient, (l0, fvu, ce) in FRONT.items()
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ("knee", 1.0),
        ("l0=5", 3.0),
        ("l0=100", 0.3),
        ("fvu=0.2", 1.0),
        ("fvu=0.07", 0.3),
        ("fvu=0.01", 0.3),  # none reaches it: the nearest
        ("ce=0.97", 0.3),
        ("ce=0.4", 3.0),
    ],
)
def test_the_rule_decides_between_coefficients_and_the_first_seed_is_taken(
    rule: str, taken: float
) -> None:
    rows = rows_of()
    (choice,) = choose(rows, rule_of(rule))
    assert (choice.layer, choice.member) == (2, f"l1_{taken:g}_seed0")
    assert choice.reason
    assert [row["member"] for row in rows if row["selected"]] == [choice.member]


def test_the_front_holds_every_coefficient_with_its_seeds_averaged() -> None:
    rows = rows_of()
    (choice,) = choose(rows, rule_of("knee"))
    for point in choice.front:
        l0, fvu, ce = FRONT[point["coefficient"]]
        assert (point["l0"], point["fvu"]) == (pytest.approx(l0), pytest.approx(fvu))
        assert point["ce_recovered"] == pytest.approx(ce)
        assert (point["screened"], point["on_front"]) == (False, True)
    assert [point["coefficient"] for point in choice.front] == list(FRONT)


def test_what_another_beats_in_both_is_not_on_the_front() -> None:
    rows = rows_of()
    for row in rows:
        if row["coefficient"] == 0.3:
            row["fvu"] = 0.5
    (choice,) = choose(rows, rule_of("l0=60"))
    assert choice.member == "l1_0.3_seed0"  # the rule asks for a number of active latents only
    assert [point["on_front"] for point in choice.front] == [False, True, True]


@pytest.mark.parametrize("rule", ["knee", "l0=16", "fvu=0.2"])
def test_what_was_given_up_early_is_never_taken(rule: str) -> None:
    rows = rows_of(screened=(1.0, 3.0))
    (choice,) = choose(rows, rule_of(rule))
    assert choice.member == "l1_0.3_seed0"
    assert choice.reason.endswith("; 2 of 3 coefficients were given up early")
    by_coefficient = {point["coefficient"]: point for point in choice.front}
    assert by_coefficient[1.0]["screened"] and not by_coefficient[1.0]["on_front"]
    assert by_coefficient[1.0]["ce_recovered"] is None  # JSON has no NaN


def test_layers_choose_for_themselves() -> None:
    other = rows_of(0)
    for row in other:
        row["l0"] = 100.0 - float(str(row["l0"]))
    choices = choose([*rows_of(5), *other], rule_of("l0=5"))
    assert [(c.layer, c.member) for c in choices] == [(0, "l1_0.3_seed0"), (5, "l1_3_seed0")]


def test_one_member_is_taken_whatever_it_does() -> None:
    row = rows_of(seeds=1)[:1]
    row[0] |= {"fvu": 1.5, "ce_recovered": math.nan}
    (choice,) = choose(row, rule_of("fvu=0.1"))
    assert (choice.member, choice.reason) == ("l1_0.3_seed0", "the only one")


@pytest.mark.parametrize(("baseline", "n_warnings"), [(0.9, 0), (0.01, 1)])
def test_what_loses_to_principal_components_is_taken_with_a_warning(
    baseline: float, n_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "pca_fvu": baseline} for row in rows_of()]
    choose(rows, rule_of("knee"))
    assert len(caplog.records) == n_warnings
    if n_warnings:
        assert "principal components leave less unexplained (FVU 0.010)" in caplog.text
