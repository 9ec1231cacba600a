import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from sdlms.sae import baselines
from sdlms.sae.baselines import Moments, PrincipalEnergies, components_for

D = 7


def some_rows(n_rows: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(99))
    return torch.randn(n_rows, D, generator=random) @ mixing + 3


def test_moments_are_mean_and_covariance() -> None:
    rows = some_rows(50, 0)
    found = Moments.of(rows)
    exact = rows.double().numpy()
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T, bias=True), rtol=1e-10)
    expected = ((exact - exact.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert found.variance == pytest.approx(expected, rel=1e-12)
    assert found.n_rows == 50


@pytest.mark.parametrize("n_rows", [1, 3, 1000])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    rows = some_rows(50, 0)
    whole, energies = Moments.of(rows), PrincipalEnergies.of(Moments.of(rows), rows).energies
    monkeypatch.setattr(baselines, "BLOCK_BYTES", 8 * D * n_rows)
    cut = Moments.of(rows)
    torch.testing.assert_close(cut.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(cut.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
    again = PrincipalEnergies.of(cut, rows).energies
    torch.testing.assert_close(again, energies, rtol=1e-9, atol=1e-9)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    rows = some_rows(200, 0).double()
    found = Moments.of(rows + 1e6)
    np.testing.assert_allclose(found.covariance, Moments.of(rows).covariance, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_that_never_vary_have_variance_zero(dtype: torch.dtype) -> None:
    assert Moments.of(torch.full((1000, D), 0.1, dtype=dtype)).variance == 0


def test_rows_stay_as_they_are() -> None:
    rows = some_rows(20, 0).double()
    before = rows.clone()
    PrincipalEnergies.of(Moments.of(rows), rows)
    assert torch.equal(rows, before)


def test_no_rows_have_no_moments() -> None:
    with pytest.raises(ValueError, match="no rows"):
        Moments.of(torch.zeros(0, D))


@pytest.mark.parametrize("k", range(D + 1))
def test_fvu_is_that_of_scikit_learn(k: int) -> None:
    training, held_out = some_rows(60, 0), some_rows(40, 1)
    exact = held_out.double().numpy()
    pca = PCA(n_components=k, svd_solver="full").fit(training.double().numpy())
    rebuilt = pca.inverse_transform(pca.transform(exact)) if k else pca.mean_ + 0 * exact
    expected = ((exact - rebuilt) ** 2).sum() / ((exact - pca.mean_) ** 2).sum()
    found = PrincipalEnergies.of(Moments.of(training), held_out).fvu(k)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nothing_and_everything_are_exact() -> None:
    moments = Moments.of(some_rows(60, 0))
    energies = PrincipalEnergies.of(moments, some_rows(40, 1))
    assert (energies.fvu(0), energies.fvu(D)) == (1, 0)
    for k in (-1, D + 1):
        with pytest.raises(ValueError, match=f"{k} of {D} axes"):
            energies.fvu(k)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_more_components_never_explain_less(n_training: int, n_rows: int, seed: int) -> None:
    moments = Moments.of(some_rows(n_training, seed))
    energies = PrincipalEnergies.of(moments, some_rows(n_rows, seed + 1))
    fvus = [energies.fvu(k) for k in range(D + 1)]
    assert fvus == sorted(fvus, reverse=True)


def test_rows_at_the_mean_have_no_fvu() -> None:
    moments = Moments.of(torch.ones(3, D))
    assert math.isnan(PrincipalEnergies.of(moments, torch.ones(2, D)).fvu(1))


@pytest.mark.parametrize(
    ("l0", "k"), [(0.0, 0), (0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (6.9, 7), (50.0, 7)]
)
def test_l0_is_rounded_half_up_and_bounded(l0: float, k: int) -> None:
    assert components_for(l0, D) == k


@pytest.mark.parametrize("l0", [math.nan, -1.0])
def test_l0_that_is_no_number_is_our_bug(l0: float) -> None:
    with pytest.raises(ValueError, match="L0"):
        components_for(l0, D)


def test_too_many_units_have_a_variance_but_no_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(50, 0)
    whole = Moments.of(rows)
    monkeypatch.setattr(baselines, "MOST_UNITS", D - 1)
    found = Moments.of(rows)
    assert found.covariance is None
    assert found.variance == pytest.approx(whole.variance, rel=1e-12)
    assert torch.equal(found.mean, whole.mean)
    assert math.isnan(PrincipalEnergies.of(found, rows).fvu(3))
