"""L-BFGS that is told the objective instead of calling it, so that many searches share a pass."""

from collections import deque

import numpy as np

from sdlms.probes.newton import LOSS_ROUNDING, MAX_HALVINGS, largest_weight
from sdlms.probes.objective import Inverse, Vector

# Steps remembered: all of a usual search.
MEMORY = 30


class Descent:
    """One search for the minimum of a penalised loss; the caller evaluates `trial` and tells.

    It ends when the next step is shorter than a tenth of the tolerance, or when the gradient
    proves that the weights are within it (see `newton.minimise`), or fails when no fraction of a
    step lowers the loss.

    Attributes:
        point: `[unit + 1]` float64, the best point so far: weights, then the bias.
        trial: `[unit + 1]` float64, where the objective is wanted next.
        gradient_norm: Euclidean norm of the gradient at `point`.
        is_finished: whether nothing is wanted any more.
        has_converged: whether the weights are known to the tolerance.
        n_passes: what the caller last counted.

    Source: Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4.
    """

    def __init__(
        self, start: Vector, penalty: float, inverse: Inverse, tolerance: float = 1e-3
    ) -> None:
        """Begin at a point.

        Args:
            start: `[unit + 1]` float64.
            penalty: weights of the minimum are at most |gradient| / penalty away.
            inverse: an approximate inverse Hessian, symmetric and positive definite.
            tolerance: largest error of a weight, relative to the largest weight.
        """
        self.point = self.trial = start
        self.gradient_norm = float("nan")
        self.is_finished = self.has_converged = False
        self.n_passes = 0
        self._penalty, self._inverse, self._tolerance = penalty, inverse, tolerance
        self._loss, self._gradient = float("inf"), np.zeros_like(start)
        self._step, self._length = np.zeros_like(start), 1.0
        self._pairs: deque[tuple[Vector, Vector]] = deque(maxlen=MEMORY)

    def tell(self, loss: float, gradient: Vector, n_passes: int) -> None:
        """Take in the objective at `trial`.

        Args:
            loss: with the penalty.
            gradient: `[unit + 1]` float64, with the penalty.
            n_passes: made until now.
        """
        self.n_passes = n_passes
        slope = self._length * float(self._gradient @ self._step)
        if loss <= self._loss + 1e-4 * slope + LOSS_ROUNDING * abs(loss):
            self._accept(loss, gradient)
        elif self._length > 0.5**MAX_HALVINGS:
            self._length /= 2
            self.trial = self.point + self._length * self._step
        else:
            self.is_finished = True

    def _accept(self, loss: float, gradient: Vector) -> None:
        moved, bent = self.trial - self.point, gradient - self._gradient
        if float(moved @ bent) > 0:
            self._pairs.append((moved, bent))
        self.point, self._loss, self._gradient = self.trial, loss, gradient
        self.gradient_norm = float(np.linalg.norm(gradient))
        self._step, self._length = -self._times_inverse(gradient), 1.0
        self.trial = self.point + self._step
        allowed = self._tolerance * largest_weight(self.point)
        proven = self.gradient_norm <= self._penalty * allowed
        # The first step comes from the approximate inverse alone, and says little of the error.
        short = float(np.abs(self._step[:-1]).max(initial=0)) <= allowed / 10 and bool(self._pairs)
        self.is_finished = self.has_converged = proven or short

    def _times_inverse(self, gradient: Vector) -> Vector:
        """The two-loop recursion around the approximate inverse."""
        vector = gradient.copy()
        factors = []
        for moved, bent in reversed(self._pairs):
            factors.append(float(moved @ vector) / float(moved @ bent))
            vector -= factors[-1] * bent
        vector = self._inverse(vector)
        if self._pairs:
            moved, bent = self._pairs[-1]
            vector *= float(moved @ bent) / float(bent @ self._inverse(bent))
        for (moved, bent), factor in zip(self._pairs, reversed(factors), strict=True):
            vector += (factor - float(bent @ vector) / float(moved @ bent)) * moved
        return vector
