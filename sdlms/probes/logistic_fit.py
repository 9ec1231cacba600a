"""Logistic regression on arrays in memory: scikit-learn's L-BFGS, finished by Newton steps."""

from dataclasses import dataclass

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sdlms.errors import UserError
from sdlms.numerics.standardize import RunningMoments
from sdlms.probes.newton import minimise
from sdlms.probes.objective import Objective, Vector
from sdlms.probes.workers import one_blas_thread

# L-BFGS ends at this largest entry of the gradient. Where it needs more iterations the units are
# so correlated that it would need hundreds, and factorising the Hessian once is faster.
GRADIENT_TOLERANCE = 1e-5
MAX_LBFGS_ITERATIONS = 30


@dataclass(frozen=True)
class LogisticFit:
    """A fitted logistic regression on standardised units.

    Attributes:
        weight: `[unit]` float64, per standard deviation of the unit.
        bias: log odds of class 1 at the mean.
        mean: `[unit]` float64, of the training examples.
        std: `[unit]` float64, of the training examples; 1 where a unit never changed.
        converged: whether weights are known to 1e-3 of the largest.
        n_iterations: L-BFGS iterations and Newton steps together.
        gradient_norm: Euclidean norm of the gradient of the mean loss at the end.
    """

    weight: Tensor
    bias: float
    mean: Tensor
    std: Tensor
    converged: bool
    n_iterations: int
    gradient_norm: float


def standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Units in standard deviations from their mean.

    Args:
        x: `[example, unit]`, any float type.
        mean: `[unit]`, any float type.
        std: `[unit]`, any float type, > 0.

    Returns:
        `[example, unit]` float32, computed in float32; a new tensor.
    """
    return (x.float() - mean.float()).div_(std.float())


def fit_logistic(x: Tensor, y: Tensor, *, c: float = 1.0) -> LogisticFit:
    """Minimise mean logistic loss + |w|^2 / (2 C n) on standardised units; the bias goes free.

    Moments are taken in float64 and applied in float32; L-BFGS runs in float32, the gradients
    that decide on convergence are float64. One BLAS thread in the whole process meanwhile.

    Args:
        x: `[example, unit]`, any float type, finite; computed in float32.
        y: `[example]` bool, true for class 1.
        c: inverse strength of the penalty, > 0.

    Returns:
        The fit; weights agree with the exact minimum to 1e-3 of the largest where it says
        `converged`.

    Raises:
        ValueError: other shapes or types, an activation that is not finite, or c <= 0.
        UserError: one class only.

    Source: the objective is that of scikit-learn's LogisticRegression(C=c).
    """
    with one_blas_thread():
        return _fit((x, y), c)


def _fit(problem: tuple[Tensor, Tensor], c: float) -> LogisticFit:
    x, y = problem
    _require_problem(x, y, c)
    moments = RunningMoments(x.shape[1])
    moments.add(x)
    mean, std = moments.mean, moments.std
    if not bool(mean.isfinite().all() and std.isfinite().all()):
        raise ValueError("an activation is not finite")
    columns, targets = standardised(x, mean, std).numpy(), y.numpy()
    start, n_iterations = _lbfgs(columns, targets, c)
    solution = minimise(Objective(columns, targets, 1 / (c * len(targets))), start)
    return LogisticFit(
        weight=torch.from_numpy(solution.point[:-1].copy()),
        bias=float(solution.point[-1]),
        mean=mean,
        std=std,
        converged=solution.converged,
        n_iterations=n_iterations + solution.n_steps,
        gradient_norm=solution.gradient_norm,
    )


def _lbfgs(
    columns: NDArray[np.float32], targets: NDArray[np.bool_], c: float
) -> tuple[Vector, int]:
    """scikit-learn's solution, weights and then the bias, and its iterations."""
    model = LogisticRegression(C=c, tol=GRADIENT_TOLERANCE, max_iter=MAX_LBFGS_ITERATIONS)
    # On small arrays numpy has, once in thousands of fits, warned of an invalid value in the first
    # product although all was finite; so the result is looked at instead.
    finite = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with finite, np.errstate(invalid="ignore"):
        model.fit(columns, targets)
    point = np.append(model.coef_[0], model.intercept_[0]).astype(np.float64)
    if not np.isfinite(point).all():
        raise ValueError("L-BFGS ended at weights that are no numbers")
    return point, int(model.n_iter_[0])


def _require_problem(x: Tensor, y: Tensor, c: float) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or y.dtype != torch.bool:
        raise ValueError(f"need x [example, unit], y [example] bool; got {x.shape}, {y.shape}")
    if not c > 0:
        raise ValueError(f"c must be > 0, got {c}")
    if bool(y.all()) or not bool(y.any()):
        raise UserError("logistic regression needs examples of both classes; there is one only.")
