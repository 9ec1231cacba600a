from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import LinAlgError
from sklearn.linear_model import LogisticRegression

from sdlms.probes import newton
from sdlms.probes.newton import minimise
from sdlms.probes.objective import Objective


def data(n_examples: int, n_units: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised columns; `flat` spreads the variances of directions over six decades."""
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(n_examples, n_units))
    if kind == "flat":
        rotation = np.linalg.qr(generator.normal(size=(n_units, n_units)))[0]
        columns = columns * np.logspace(0, -3, n_units) @ rotation
    if kind == "twins":
        columns[:, 1::2] = columns[:, ::2] + 1e-3 * columns[:, 1::2]
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    logits = columns @ generator.normal(size=n_units)
    noise = generator.logistic(size=n_examples) * logits.std()
    return columns.astype(np.float32), logits + (noise if kind != "separable" else 0) > 0


def error(columns: np.ndarray, targets: np.ndarray, c: float, weights: np.ndarray) -> float:
    """Largest error of a weight, relative to the largest weight of scikit-learn's Newton."""
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=500)
    exact = model.fit(columns.astype(np.float64), targets).coef_[0]
    return float(np.abs(weights - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("kind", ["plain", "flat", "twins", "separable"])
@pytest.mark.parametrize("shape", [(500, 40), (60, 90)])
@pytest.mark.parametrize("c", [1e-4, 1.0, 100.0])
def test_weights_are_as_near_as_promised(kind: str, shape: tuple[int, int], c: float) -> None:
    columns, targets = data(*shape, kind)
    for start in (np.zeros(shape[1] + 1), np.random.default_rng(1).normal(size=shape[1] + 1)):
        found = minimise(Objective(columns, targets, 1 / (c * shape[0])), start)
        assert found.converged
        assert error(columns, targets, c, found.point[:-1]) <= 1e-3


def test_a_hessian_that_float32_cannot_factorise_is_made_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = Objective.inverse_hessian
    asked = []

    def refused(
        objective: Objective, curvature: np.ndarray, kind: type[np.floating]
    ) -> Callable[[np.ndarray], np.ndarray]:
        asked.append(kind)
        if kind is np.float32:
            raise LinAlgError("not positive definite")
        return exact(objective, curvature, kind)

    monkeypatch.setattr(Objective, "inverse_hessian", refused)
    columns, targets = data(500, 40, "flat")
    found = minimise(Objective(columns, targets, 1 / 500), np.zeros(41))
    assert found.converged
    assert asked == [np.float32, np.float64]
    assert error(columns, targets, 1.0, found.point[:-1]) <= 1e-3


def test_units_that_are_copies_share_the_weight() -> None:
    columns, targets = data(500, 40, "plain")
    columns[:, 20:] = columns[:, :20]
    found = minimise(Objective(columns, targets, 1e-9), np.zeros(41))
    assert found.converged
    np.testing.assert_allclose(found.point[:20], found.point[20:40], rtol=1e-3, atol=1e-3)
    assert error(columns[:, :20], targets, 2 / (1e-9 * 500), 2 * found.point[:20]) <= 1e-3


def test_without_conjugate_gradients_each_hessian_is_factorised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns, targets = data(500, 40, "flat")
    monkeypatch.setattr(newton, "MAX_PLAIN_PRODUCTS", 0)
    monkeypatch.setattr(newton, "MAX_PRODUCTS", 0)
    found = minimise(Objective(columns, targets, 1 / 500), np.zeros(41))
    assert found.converged
    assert found.n_steps <= 10
    assert error(columns, targets, 1.0, found.point[:-1]) <= 1e-6


def test_a_penalty_below_rounding_ends_by_the_length_of_the_step() -> None:
    """No gradient in float64 is small enough to prove anything then."""
    for kind in ("plain", "flat"):
        columns, targets = data(500, 40, kind)
        found = minimise(Objective(columns, targets, 1e-15), np.zeros(41))
        assert found.converged
        assert found.gradient_norm > 1e-3 * 1e-15 * np.abs(found.point).max()
        assert error(columns, targets, 1 / (1e-15 * 500), found.point[:-1]) <= 1e-3


def test_a_loss_that_no_step_lowers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, targets = data(500, 40, "plain")
    monkeypatch.setattr(newton, "MAX_HALVINGS", 0)
    found = minimise(Objective(columns, targets, 1 / 500), np.zeros(41))
    assert (found.converged, found.n_steps) == (False, 0)


def test_units_without_variance_get_no_weight() -> None:
    targets = np.arange(10) < 3
    found = minimise(Objective(np.zeros((10, 4), np.float32), targets, 0.1), np.zeros(5))
    assert found.converged
    assert found.point == pytest.approx([0, 0, 0, 0, np.log(3 / 7)])


def test_the_limit_of_steps_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, targets = data(500, 40, "flat")
    objective = Objective(columns, targets, 1 / 500)
    monkeypatch.setattr(newton, "MAX_STEPS", 1)
    found = minimise(objective, np.zeros(41))
    assert (found.converged, found.n_steps) == (False, 1)
    assert found.gradient_norm == np.linalg.norm(objective.at(found.point).gradient)


def test_a_converged_start_is_left_alone() -> None:
    columns, targets = data(500, 40, "plain")
    objective = Objective(columns, targets, 1 / 500)
    point = minimise(objective, np.zeros(41)).point
    again = minimise(objective, point)
    assert (again.converged, again.n_steps) == (True, 0)
    assert again.point is point
