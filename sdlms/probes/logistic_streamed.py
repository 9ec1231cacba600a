"""Logistic regression over more examples than memory holds: passes over blocks, sums in float64."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from sdlms.errors import UserError
from sdlms.numerics.standardize import RunningMoments
from sdlms.probes.descent import Descent
from sdlms.probes.logistic_fit import LogisticFit, standardised
from sdlms.probes.objective import Inverse, Vector, losses_and_residuals, with_penalty
from sdlms.probes.workers import one_blas_thread

Blocks = Callable[[], Iterable[tuple[Tensor, Tensor]]]

ROWS_AT_ONCE = 1024
MAX_PASSES = 200
# Of a Gram matrix whose products were rounded to float32, relative to its largest eigenvalue.
GRAM_ROUNDING = 1e-7


def fit_logistic_streamed(blocks: Blocks, n_units: int, c: float = 1.0) -> list[LogisticFit]:
    """`fit_logistic` of examples that are read again for every pass; all labels share the passes.

    One pass for the moments, one for the Gram matrix, then L-BFGS with it as preconditioner:
    some ten passes, thirty where the classes are nearly separable. Memory is a few matrices
    `[unit, unit]` in float64 and a block, whatever the number of examples. One BLAS thread in the
    whole process meanwhile.

    Args:
        blocks: called for each pass; yields `x [example, unit]` of any float type, finite, with
            `y [example]` or `y [example, label]` bool; the same examples each time.
        n_units: units of x.
        c: inverse strength of the penalty, > 0.

    Returns:
        One fit per label, one for `y [example]`; `n_iterations` counts the passes. Weights agree
        with those of `fit_logistic` to 1e-3 of the largest where a fit says `converged`.

    Raises:
        ValueError: other shapes or types, an activation that is not finite, or c <= 0.
        UserError: a label has one class only.
    """
    if not c > 0:
        raise ValueError(f"c must be > 0, got {c}")
    with one_blas_thread():
        return _Passes(blocks, n_units, c).fits()


class _Passes:
    """What passes have in common: moments, class counts, and the penalty that follows from them."""

    def __init__(self, blocks: Blocks, n_units: int, c: float) -> None:
        self._blocks = blocks
        moments = RunningMoments(n_units)
        n_positive = np.zeros(0, dtype=np.int64)
        for x, y in blocks():
            _require_block(x, y)
            moments.add(x)
            counts = _by_label(y).sum(axis=0)
            n_positive = counts if not n_positive.size else n_positive + counts
        self.n_examples = moments.n_examples
        if not ((n_positive > 0) & (n_positive < self.n_examples)).all() or not n_positive.size:
            raise UserError(
                "logistic regression needs examples of both classes; there is one only."
            )
        self.mean, self.std = moments.mean, moments.std
        if not bool(self.mean.isfinite().all() and self.std.isfinite().all()):
            raise ValueError("an activation is not finite")
        self.fractions = n_positive / self.n_examples
        self.penalty = 1 / (c * self.n_examples)

    def fits(self) -> list[LogisticFit]:
        """Search for all labels side by side, one pass for each evaluation."""
        inverses = _inverses(self._gram(), self.fractions, self.penalty)
        starts = np.zeros((len(self.fractions), len(self.mean) + 1))
        starts[:, -1] = np.log(self.fractions / (1 - self.fractions))
        searches = [
            Descent(start, self.penalty, inverse)
            for start, inverse in zip(starts, inverses, strict=True)
        ]
        n_passes = 2
        while n_passes < MAX_PASSES and (active := [s for s in searches if not s.is_finished]):
            labels = [i for i, search in enumerate(searches) if not search.is_finished]
            losses, gradients = self._evaluated(labels, np.stack([s.trial for s in active]))
            n_passes += 1
            for search, loss, gradient in zip(active, losses, gradients, strict=True):
                search.tell(*with_penalty(loss, gradient, search.trial, self.penalty), n_passes)
        return [self._fit(search) for search in searches]

    def _rows(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Standardised rows and their targets `[row, label]`, a few at a time."""
        n_examples = 0
        for x, y in self._blocks():
            n_examples += len(x)
            targets = _by_label(y)
            for first in range(0, len(x), ROWS_AT_ONCE):
                rows = slice(first, first + ROWS_AT_ONCE)
                yield standardised(x[rows], self.mean, self.std).numpy(), targets[rows]
        if n_examples != self.n_examples:
            raise ValueError(f"{n_examples} examples in one pass, {self.n_examples} in the first")

    def _gram(self) -> NDArray[np.float64]:
        """`[unit, unit]`, mean of the products of standardised units."""
        gram = np.zeros((len(self.mean), len(self.mean)))
        for columns, _ in self._rows():
            gram += columns.T @ columns
        return gram / self.n_examples

    def _evaluated(
        self, labels: list[int], points: NDArray[np.float64]
    ) -> tuple[list[float], NDArray[np.float64]]:
        """Mean loss `[label]` and its gradient `[label, unit + 1]`, without penalty."""
        losses, gradients = np.zeros(len(labels)), np.zeros_like(points)
        for rows, targets in self._rows():
            columns = rows.astype(np.float64)
            logits = columns @ points[:, :-1].T + points[:, -1]
            loss, residuals, _ = losses_and_residuals(logits, targets[:, labels])
            losses += loss.sum(axis=0)
            gradients[:, :-1] += residuals.T @ columns
            gradients[:, -1] += residuals.sum(axis=0)
        return (losses / self.n_examples).tolist(), gradients / self.n_examples

    def _fit(self, search: Descent) -> LogisticFit:
        return LogisticFit(
            weight=torch.from_numpy(search.point[:-1].copy()),
            bias=float(search.point[-1]),
            mean=self.mean,
            std=self.std,
            converged=search.has_converged,
            n_iterations=search.n_passes,
            gradient_norm=search.gradient_norm,
        )


def _require_block(x: Tensor, y: Tensor) -> None:
    if y.dtype != torch.bool or y.ndim not in (1, 2) or len(x) != len(y):
        raise ValueError(f"need y [example] or [example, label] bool; got {y.shape} for {x.shape}")


def _by_label(y: Tensor) -> NDArray[np.bool_]:
    """`[example, label]`."""
    targets: NDArray[np.bool_] = (y[:, None] if y.ndim == 1 else y).numpy()
    return targets


def _inverses(
    gram: NDArray[np.float64], fractions: NDArray[np.float64], penalty: float
) -> list[Inverse]:
    """An approximate inverse Hessian per label: the Gram matrix times p (1 - p) of its base rate.

    Labels whose base rates differ by less than a factor of two share one.
    """
    levels = np.round(np.log(fractions * (1 - fractions)) / np.log(4)).astype(int)
    shared = {level: _inverse(gram, 4.0**level, penalty) for level in sorted(set(levels.tolist()))}
    return [shared[level] for level in levels.tolist()]


def _inverse(gram: NDArray[np.float64], curvature: float, penalty: float) -> Inverse:
    hessian = gram * curvature
    # The trace of a Gram matrix bounds its largest eigenvalue, and so what rounding did to it.
    ridge = max(penalty, GRAM_ROUNDING * float(np.trace(hessian)))
    hessian[np.diag_indices_from(hessian)] += ridge
    factor = cho_factor(hessian, lower=True, overwrite_a=True)

    def solve(vector: Vector) -> Vector:
        weights = cho_solve(factor, vector[:-1])
        return np.append(weights, vector[-1] / curvature)

    return solve
