"""The objective of logistic regression, and its Hessian, on columns that stay in float32."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Vector = NDArray[np.float64]
Inverse = Callable[[Vector], Vector]

ROWS_AT_ONCE = 256
GRAM_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Evaluation:
    """The objective at one point.

    Attributes:
        loss: mean loss and penalty.
        gradient: `[unit + 1]` float64, the bias last.
        curvature: `[example]` float32, p (1 - p).
    """

    loss: float
    gradient: Vector
    curvature: NDArray[np.float32]


@dataclass(frozen=True)
class Objective:
    """Mean logistic loss plus `penalty` / 2 times the squared weights; the bias goes free.

    Attributes:
        columns: `[example, unit]` float32, standardised.
        targets: `[example]` bool.
        penalty: > 0; 1 / (C n) is scikit-learn's C.
    """

    columns: NDArray[np.float32]
    targets: NDArray[np.bool_]
    penalty: float

    def at(self, point: Vector) -> Evaluation:
        """Loss, gradient and curvature, summed in float64."""
        gradient = np.zeros_like(point)
        curvature = np.empty(len(self.targets), dtype=np.float32)
        loss = 0.0
        for first in range(0, len(self.targets), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            columns = self.columns[rows].astype(np.float64)
            losses, residuals, probabilities = losses_and_residuals(
                columns @ point[:-1] + point[-1], self.targets[rows]
            )
            loss += float(losses.sum())
            gradient[:-1] += residuals @ columns
            gradient[-1] += residuals.sum()
            curvature[rows] = probabilities * (1 - probabilities)
        loss, gradient = with_penalty(
            loss / len(self.targets), gradient / len(self.targets), point, self.penalty
        )
        return Evaluation(loss, gradient, curvature)

    def hessian_times(self, curvature: NDArray[np.float32], direction: Vector) -> Vector:
        """The Hessian times a direction; products in float32."""
        slopes = self.columns @ direction[:-1].astype(np.float32)
        slopes += np.float32(direction[-1])
        slopes *= curvature
        product = np.append(slopes @ self.columns, slopes.sum()).astype(np.float64)
        product /= len(slopes)
        product[:-1] += self.penalty * direction[:-1]
        return product

    def inverse_hessian(self, curvature: NDArray[np.float32], kind: type[np.floating]) -> Inverse:
        """Solve with the Hessian at a point, the bias penalised too (which hardly matters).

        With fewer examples than units the system is as large as the examples.

        Raises:
            LinAlgError: rounding in `kind` made it indefinite.
        """
        if self.columns.shape[0] < self.columns.shape[1]:
            return self._inverse_by_examples(curvature)
        hessian = np.diag(np.full(self.columns.shape[1] + 1, self.penalty))
        for first in range(0, len(curvature), GRAM_ROWS_AT_ONCE):
            rows = slice(first, first + GRAM_ROWS_AT_ONCE)
            weighted = self._weighted(rows, curvature, kind)
            hessian += weighted.T @ weighted
        factor = cho_factor(hessian, lower=True, overwrite_a=True)
        return lambda vector: np.asarray(cho_solve(factor, vector), dtype=np.float64)

    def _inverse_by_examples(self, curvature: NDArray[np.float32]) -> Inverse:
        """The same by the Woodbury identity, in float64: it subtracts nearly equal numbers."""
        weighted = self._weighted(slice(None), curvature, np.float64)
        gram = weighted @ weighted.T
        gram[np.diag_indices_from(gram)] += self.penalty
        factor = cho_factor(gram, lower=True, overwrite_a=True)

        def solve(vector: Vector) -> Vector:
            explained = weighted.T @ cho_solve(factor, weighted @ vector)
            return np.asarray((vector - explained) / self.penalty, dtype=np.float64)

        return solve

    def _weighted(
        self, rows: slice, curvature: NDArray[np.float32], kind: type[np.floating]
    ) -> NDArray[np.floating]:
        """Rows of the columns and a column of ones, times the root of their curvature over n."""
        roots = np.sqrt(curvature[rows, None].astype(kind) / kind(len(curvature)))
        return np.concatenate([self.columns[rows] * roots, roots], axis=1)


def losses_and_residuals(
    logits: Vector, targets: NDArray[np.bool_]
) -> tuple[Vector, Vector, Vector]:
    """Logistic loss, probability minus target, and probability; no logit overflows.

    Args:
        logits: any shape, float64.
        targets: the same shape, bool.

    Returns:
        Three arrays of that shape; losses >= 0, residuals in [-1, 1].
    """
    decay = np.exp(-np.abs(logits))
    probabilities = np.where(logits >= 0, 1.0, decay) / (1 + decay)
    losses = np.maximum(np.where(targets, -logits, logits), 0) + np.log1p(decay)
    return losses, probabilities - targets, probabilities


def with_penalty(
    loss: float, gradient: Vector, point: Vector, penalty: float
) -> tuple[float, Vector]:
    """Add `penalty` / 2 times the squared weights; the bias, last in `point`, is left alone.

    Args:
        loss: mean loss.
        gradient: `[unit + 1]` float64, of the mean loss.
        point: `[unit + 1]` float64.
        penalty: >= 0.

    Returns:
        Loss and gradient of the whole.
    """
    weights = point[:-1]
    gradient = np.append(gradient[:-1] + penalty * weights, gradient[-1])
    return loss + penalty / 2 * float(weights @ weights), gradient
