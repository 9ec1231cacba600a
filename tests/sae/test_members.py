"""Sweeps: every layer, coefficient and seed once, each with a name of its own."""

from sdlms.sae.members import members_of, partner_of
from tests.sae.recipes import recipe


def test_every_combination_is_there_once_in_order() -> None:
    members = members_of(recipe("standard"), [1, 3], [0.3, 10.0], [5, 6])
    assert [(m.layer, m.recipe.coefficient, m.recipe.seed) for m in members] == [
        (layer, l1, seed) for layer in (1, 3) for l1 in (0.3, 10.0) for seed in (5, 6)
    ]
    assert [m.name for m in members[:4]] == [
        "l1_0.3_seed5",
        "l1_0.3_seed6",
        "l1_10_seed5",
        "l1_10_seed6",
    ]
    assert len({(m.layer, m.name) for m in members}) == 8


def test_names_say_which_flag_the_coefficient_has() -> None:
    assert members_of(recipe("topk"), [0], [32], [0])[0].name == "k_32_seed0"
    assert members_of(recipe("jumprelu"), [0], [0.01], [0])[0].name == "l0_0.01_seed0"


def test_the_partner_is_the_next_one_of_those_alike() -> None:
    alike = ["k_4_seed0", "k_4_seed1", "k_4_seed2"]
    assert [partner_of(name, alike) for name in alike] == [*alike[1:], alike[0]]
    assert partner_of("k_4_seed0", ["k_4_seed0"]) == ""
