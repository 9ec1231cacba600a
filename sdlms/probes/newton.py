"""Logistic regression to a stated precision, by Newton steps from any start."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError

from sdlms.probes.objective import Evaluation, Inverse, Objective, Vector

MAX_STEPS = 100
MAX_HALVINGS = 30
# Conjugate gradients stop at this residual; without a preconditioner they are cut short.
RESIDUAL = 1e-2
MAX_PLAIN_PRODUCTS = 25
MAX_PRODUCTS = 40
# What rounding in float64 leaves of a gradient, and of a loss.
GRADIENT_ROUNDING = 1e-14
LOSS_ROUNDING = 1e-12
# Log odds per standard deviation that are as good as none: the tolerance is relative to more.
NO_WEIGHT = 1e-6


@dataclass(frozen=True)
class Solution:
    """Where the search ended.

    Attributes:
        point: `[unit + 1]` float64, the weights and then the bias.
        converged: whether the weights are known to the tolerance asked for.
        n_steps: Newton steps taken.
        gradient_norm: Euclidean norm of the gradient at `point`.
    """

    point: Vector
    converged: bool
    n_steps: int
    gradient_norm: float


def minimise(objective: Objective, start: Vector, tolerance: float = 1e-3) -> Solution:
    """Newton steps until the weights are known to `tolerance` of the largest of them.

    The objective is `penalty`-strongly convex in the weights, so they are at most
    |gradient| / penalty away from the minimum: the search ends when that is small enough, or
    when a step with the factorised Hessian is a hundred times smaller still. Steps are solved
    by conjugate gradients; where 25 products with the Hessian do not suffice, one Hessian is
    factorised, and preconditions all later ones.

    Args:
        objective: what to minimise.
        start: `[unit + 1]` float64, weights and bias.
        tolerance: largest error of a weight, relative to the largest weight.

    Returns:
        The solution; `converged` is false where rounding or the limit of steps came first.

    Source: Nocedal and Wright (2006), Numerical Optimization, algorithm 7.1.
    """
    here, point = objective.at(start), start
    newton = _Newton(objective)
    for n_steps in range(MAX_STEPS + 1):
        norm = float(np.linalg.norm(here.gradient))
        scale = largest_weight(point)
        if norm <= tolerance * objective.penalty * scale:
            return Solution(point, True, n_steps, norm)
        direction = newton.direction(here)
        found = _line_search(objective, point, here, direction)
        if n_steps == MAX_STEPS or found is None:
            break
        length = float(np.abs(found[0] - point)[:-1].max())
        point, here = found
        if newton.is_exact and length <= tolerance / 100 * scale:
            return Solution(point, True, n_steps + 1, float(np.linalg.norm(here.gradient)))
    return Solution(point, False, n_steps, norm)


def largest_weight(point: Vector) -> float:
    """What the tolerance is relative to; at least `NO_WEIGHT`.

    Args:
        point: `[unit + 1]` float64, weights and then the bias.
    """
    return float(np.abs(point[:-1]).max(initial=NO_WEIGHT))


class _Newton:
    """Newton directions, by the cheapest means that works."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._inverse: Inverse | None = None

    @property
    def is_exact(self) -> bool:
        """Whether directions come from a factorised Hessian, so that their length is the error."""
        return self._inverse is not None

    def direction(self, here: Evaluation) -> Vector:
        if self._inverse is None:
            found = None
            if np.linalg.norm(here.gradient) > GRADIENT_ROUNDING:
                found = _conjugate_gradients(self.objective, here, None, MAX_PLAIN_PRODUCTS)
            if found is not None:
                return found
            self._inverse = self._factorised(here)
        found = _conjugate_gradients(self.objective, here, self._inverse, MAX_PRODUCTS)
        if found is not None:
            return found
        self._inverse = self.objective.inverse_hessian(here.curvature, np.float64)
        return self._inverse(-here.gradient)

    def _factorised(self, here: Evaluation) -> Inverse:
        try:
            return self.objective.inverse_hessian(here.curvature, np.float32)
        except LinAlgError:
            return self.objective.inverse_hessian(here.curvature, np.float64)


def _conjugate_gradients(
    objective: Objective, here: Evaluation, inverse: Inverse | None, most: int
) -> Vector | None:
    """Solve Hessian times direction = -gradient; None where `most` products do not suffice."""
    direction = np.zeros_like(here.gradient)
    residual = -here.gradient
    towards = residual if inverse is None else inverse(residual)
    size = first_size = float(residual @ towards)
    along = towards.copy()
    for _ in range(most):
        product = objective.hessian_times(here.curvature, along)
        bend = float(along @ product)
        if bend <= 0 or size <= 0:
            return None
        direction += size / bend * along
        residual = residual - size / bend * product
        towards = residual if inverse is None else inverse(residual)
        before, size = size, float(residual @ towards)
        if size <= RESIDUAL**2 * first_size:
            return direction
        along = towards + size / before * along
    return None


def _line_search(
    objective: Objective, point: Vector, here: Evaluation, direction: Vector
) -> tuple[Vector, Evaluation] | None:
    """Halve the step until the loss falls as it should (Armijo); None where it never does."""
    slope = float(here.gradient @ direction)
    rounding = LOSS_ROUNDING * abs(here.loss)
    for halvings in range(MAX_HALVINGS):
        length = 0.5**halvings
        there = point + length * direction
        evaluation = objective.at(there)
        if evaluation.loss <= here.loss + 1e-4 * length * slope + rounding:
            return there, evaluation
    return None
