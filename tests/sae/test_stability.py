import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdlms.sae import stability
from sdlms.sae.lens_check import without_traces
from sdlms.sae.stability import Matched, matched_cosine

D = 5


def drawn(n_latents: int, seed: int, d: int = D) -> Tensor:
    return torch.randn(n_latents, d, generator=torch.Generator().manual_seed(seed))


def by_brute_force(ours: Tensor, others: Tensor) -> list[float]:
    """Cosines of the best of all matchings; 0 where there is no partner."""
    a, b = (rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (ours, others))
    cosines = (a @ b.T).tolist()
    slots = list(range(len(others))) + [None] * max(0, len(ours) - len(others))
    best = max(
        permutations(slots, len(ours)),
        key=lambda chosen: sum(cosines[i][j] for i, j in enumerate(chosen) if j is not None),
    )
    return [0.0 if j is None else cosines[i][j] for i, j in enumerate(best)]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_it_is_the_best_of_all_matchings(n_ours: int, n_others: int, seed: int) -> None:
    ours, others = drawn(n_ours, seed), drawn(n_others, seed + 1000)
    expected = by_brute_force(ours, others)
    found = matched_cosine(ours, others, seed=0)
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.median == pytest.approx(np.median(expected), abs=1e-12)
    assert found.high_fraction == np.mean(np.array(expected) > 0.9)
    assert found.n_compared == n_ours
    assert found.reason == ""


def test_those_without_a_partner_count_as_zero() -> None:
    ours = torch.eye(4)
    found = matched_cosine(ours, ours[:1], seed=0)
    assert found == Matched(mean=0.25, median=0.0, high_fraction=0.25, n_compared=4)
    assert matched_cosine(ours[:1], ours, seed=0).mean == 1


def test_order_and_norms_do_not_matter_but_signs_do() -> None:
    ours = drawn(12, 0, d=20)
    scaled = ours[torch.randperm(12, generator=torch.Generator().manual_seed(1))] * 7
    found = matched_cosine(ours, scaled, seed=0)
    assert found.mean == pytest.approx(1, abs=1e-12)
    assert (found.high_fraction, found.n_compared) == (1, 12)
    assert matched_cosine(ours[:1], -ours[:1], seed=0).mean == pytest.approx(-1, abs=1e-12)


def test_rows_of_zeros_are_like_nothing() -> None:
    ours = torch.eye(3)
    ours[1] = 0
    assert matched_cosine(ours, torch.eye(3), seed=0).mean == pytest.approx(2 / 3)


def test_stored_types_are_upcast() -> None:
    ours = drawn(6, 0).bfloat16()
    assert matched_cosine(ours, ours, seed=0).mean == pytest.approx(1, abs=1e-12)


def test_it_is_the_matching_of_sae_lens() -> None:
    """Which takes absolute cosines: the same where partners are near each other."""
    with without_traces():
        from sae_lens.synthetic.evals import mean_correlation_coefficient
    truth = drawn(40, 0, d=64)
    learned = (truth + 0.4 * drawn(40, 1, d=64))[torch.arange(39, -1, -1)]
    theirs = mean_correlation_coefficient(truth, learned)
    assert matched_cosine(truth, learned, seed=0).mean == pytest.approx(theirs, abs=1e-6)
    assert 0.8 < theirs < 0.99


def test_of_many_latents_a_seeded_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "MOST_LATENTS", 8)
    ours, others = drawn(30, 0), drawn(25, 1)
    found = [matched_cosine(ours, others, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert {each.n_compared for each in found} == {8}
    assert matched_cosine(ours, ours, seed=0).mean == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("n_ours", "n_others", "name"), [(0, 3, "first"), (3, 0, "second"), (0, 0, "first")]
)
def test_nothing_to_compare_is_nan_with_a_reason(n_ours: int, n_others: int, name: str) -> None:
    found = matched_cosine(drawn(n_ours, 0), drawn(n_others, 1), seed=0)
    assert math.isnan(found.mean) and math.isnan(found.median) and math.isnan(found.high_fraction)
    assert found.n_compared == 0
    assert found.reason == f"the {name} has no latents to match"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_dictionary_is_our_bug(value: float) -> None:
    wrong = drawn(3, 0)
    wrong[1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        matched_cosine(drawn(3, 1), wrong, seed=0)
    with pytest.raises(ValueError, match="different units"):
        matched_cosine(drawn(3, 1), drawn(3, 1, d=D + 1), seed=0)
