import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.probes.objective import Objective, losses_and_residuals, with_penalty


def objective_of(n_examples: int, n_units: int, seed: int = 0) -> tuple[Objective, np.ndarray]:
    """Random data, and a point that is not the minimum."""
    generator = np.random.default_rng(seed)
    columns = generator.normal(size=(n_examples, n_units)).astype(np.float32)
    targets = generator.random(n_examples) < 0.3
    return Objective(columns, targets, 1 / n_examples), generator.normal(size=n_units + 1)


def test_loss_agrees_with_torch() -> None:
    objective, point = objective_of(600, 5)
    logits = torch.from_numpy(objective.columns @ point[:-1] + point[-1])
    truth = torch.from_numpy(objective.targets).double()
    mean = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth).item()
    expected = mean + np.square(point[:-1]).sum() / 600 / 2
    assert objective.at(point).loss == pytest.approx(expected, rel=1e-12)


def test_gradient_and_hessian_are_the_slopes_of_loss_and_gradient() -> None:
    objective, point = objective_of(600, 5)
    here, step = objective.at(point), 1e-5
    for unit in range(6):
        along = np.eye(6)[unit]
        ahead, behind = objective.at(point + step * along), objective.at(point - step * along)
        slope = (ahead.loss - behind.loss) / (2 * step)
        assert here.gradient[unit] == pytest.approx(slope, abs=1e-9)
        bend = (ahead.gradient - behind.gradient) / (2 * step)
        product = objective.hessian_times(here.curvature, along)
        np.testing.assert_allclose(product, bend, atol=1e-6)


@pytest.mark.parametrize(("n_examples", "n_units"), [(3000, 7), (9, 40)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_inverse_hessian_undoes_the_hessian(
    n_examples: int, n_units: int, kind: type[np.floating]
) -> None:
    objective, point = objective_of(n_examples, n_units)
    curvature = objective.at(point).curvature
    direction = np.random.default_rng(1).normal(size=n_units + 1)
    product = objective.hessian_times(curvature, direction)
    product[-1] += objective.penalty * direction[-1]
    found = objective.inverse_hessian(curvature, kind)(product)
    np.testing.assert_allclose(found, direction, atol=1e-4)


@given(st.floats(-1e300, 1e300), st.booleans())
def test_no_logit_overflows(logit: float, target: bool) -> None:
    loss, residual, probability = losses_and_residuals(np.array([logit]), np.array([target]))
    wrong = -logit if target else logit
    assert loss[0] == pytest.approx(np.logaddexp(0, wrong), rel=1e-12)
    assert 0 <= probability[0] <= 1
    assert residual[0] == probability[0] - target


def test_the_bias_is_not_penalised() -> None:
    point = np.array([3.0, -4.0, 100.0])
    loss, gradient = with_penalty(1.0, np.zeros(3), point, penalty=0.5)
    assert loss == 1 + 0.25 * 25
    assert gradient.tolist() == [1.5, -2, 0]
