import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sdlms.errors import UserError
from sdlms.probes import logistic_fit, newton
from sdlms.probes.logistic_fit import fit_logistic, standardised

KINDS = ["plain", "separable", "constant", "outlier", "correlated", "rare", "offset"]


def data(kind: str, n_examples: int, n_units: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n_examples, n_units))
    logits = x @ generator.normal(size=n_units) * 2 / np.sqrt(n_units)
    noise = generator.logistic(size=n_examples) * (0.01 if kind == "separable" else 1)
    y = logits + noise > (5 if kind == "rare" else 0)
    if kind == "constant":
        x[:, ::3] = 0.1
    if kind == "outlier":
        x[:, 0] *= 1000
        x[0] *= 1000
    if kind == "correlated":
        x = x * np.logspace(0, -3, n_units) @ np.linalg.qr(generator.normal(size=(n_units,) * 2))[0]
        x += 3 * generator.normal(size=(n_examples, 1))
    if kind == "offset":
        x += 1e3
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def exact_weights(x: Tensor, y: Tensor, c: float = 1.0) -> np.ndarray:
    """scikit-learn's Newton in float64, on the columns that the fit sees."""
    exact = x.double().numpy()
    std = exact.std(axis=0)
    columns = (exact - exact.mean(axis=0)) / np.where(std > 0, std, 1)
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=500)
    return model.fit(columns, y.numpy()).coef_[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(600, 50), (80, 120)])
@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_weights_agree_with_a_newton_solution(kind: str, shape: tuple[int, int], c: float) -> None:
    x, y = data(kind, *shape)
    fit = fit_logistic(x, y, c=c)
    expected = exact_weights(x, y, c)
    assert fit.converged
    assert np.abs(fit.weight.numpy() - expected).max() <= 1e-3 * np.abs(expected).max()


def test_lbfgs_alone_would_not_agree() -> None:
    """Why Newton steps follow: in float32 L-BFGS gives up far from the minimum."""
    x, y = data("correlated", 600, 50)
    expected = exact_weights(x, y)
    fit = fit_logistic(x, y)
    model = LogisticRegression(tol=1e-9, max_iter=10_000)
    alone = model.fit(standardised(x, fit.mean, fit.std).numpy(), y.numpy()).coef_[0]
    assert np.abs(alone - expected).max() > 1e-3 * np.abs(expected).max()


def test_a_constant_unit_has_no_weight() -> None:
    x, y = data("constant", 100, 9)
    fit = fit_logistic(x, y)
    assert fit.weight[::3].abs().max() == 0
    assert fit.std[::3].tolist() == [1, 1, 1]


def test_scale_and_offset_of_units_do_not_matter() -> None:
    x, y = data("plain", 300, 10)
    moved = x * torch.logspace(-3, 3, 10) + 5
    np.testing.assert_allclose(fit_logistic(moved, y).weight, fit_logistic(x, y).weight, atol=1e-4)


def test_swapped_classes_swap_the_sign() -> None:
    x, y = data("plain", 300, 10)
    one, other = fit_logistic(x, y), fit_logistic(x, ~y)
    np.testing.assert_allclose(one.weight, -other.weight, atol=1e-4)
    assert one.bias == pytest.approx(-other.bias, abs=1e-4)


def test_a_fit_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "MAX_STEPS", 0)
    monkeypatch.setattr(logistic_fit, "MAX_LBFGS_ITERATIONS", 2)
    fit = fit_logistic(*data("correlated", 300, 40))
    assert (fit.converged, fit.n_iterations) == (False, 2)
    assert fit.gradient_norm > 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_are_fitted_in_float32(kind: torch.dtype) -> None:
    x, y = data("plain", 100, 5)
    rounded = x.to(kind)
    assert torch.equal(fit_logistic(rounded, y).weight, fit_logistic(rounded.float(), y).weight)


def test_one_class_only_is_the_users_to_mend() -> None:
    x, y = data("plain", 20, 3)
    for same in (torch.ones_like(y), torch.zeros_like(y)):
        with pytest.raises(UserError, match="both classes"):
            fit_logistic(x, same)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = data("plain", 20, 3)
    for wrong_x, wrong_y in itertools.product((x, x[0], x[:-1]), (y, y.float(), y[:1])):
        if wrong_x is not x or wrong_y is not y:
            with pytest.raises(ValueError, match="need x"):
                fit_logistic(wrong_x, wrong_y)
    with pytest.raises(ValueError, match="c must"):
        fit_logistic(x, y, c=0)
    for value in (float("nan"), float("inf")):
        broken = x.clone()
        broken[3, 1] = value
        with pytest.raises(ValueError, match="finite"):
            fit_logistic(broken, y)
