from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from sdlms.probes import descent
from sdlms.probes.descent import Descent

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def quadratic(seed: int, n_units: int = 12) -> tuple[Objective, np.ndarray, np.ndarray]:
    """A bowl with eigenvalues from 0.01 to 100, its minimum, and its Hessian."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(n_units + 1, n_units + 1)))[0]
    hessian = rotation.T * np.logspace(-2, 2, n_units + 1) @ rotation
    minimum = generator.normal(size=n_units + 1)

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = hessian @ (point - minimum)
        return float((point - minimum) @ gradient) / 2, gradient

    return evaluate, minimum, hessian


def passes(search: Descent, evaluate: Objective, most: int = 500) -> int:
    """Tell until the search is finished."""
    for n_passes in range(1, most + 1):
        search.tell(*evaluate(search.trial), n_passes)
        if search.is_finished:
            break
    return search.n_passes


def test_with_the_exact_inverse_one_step_suffices() -> None:
    evaluate, minimum, hessian = quadratic(0)
    inverse = np.linalg.inv(hessian)
    search = Descent(np.zeros(13), 0.01, lambda vector: inverse @ vector)
    assert passes(search, evaluate) == 2
    assert search.has_converged
    assert search.point == pytest.approx(minimum)


@pytest.mark.parametrize("seed", range(5))
def test_with_a_poor_inverse_it_arrives_within_the_tolerance(seed: int) -> None:
    evaluate, minimum, hessian = quadratic(seed)
    search = Descent(np.zeros(13), 0.01, lambda vector: vector / np.diag(hessian))
    passes(search, evaluate)
    assert search.has_converged
    assert np.abs(search.point - minimum)[:-1].max() <= 1e-3 * np.abs(minimum[:-1]).max()
    assert search.gradient_norm == np.linalg.norm(evaluate(search.point)[1])


def test_the_loss_never_rises() -> None:
    """Whatever the inverse promises: steps that are too long are halved."""
    evaluate, minimum, _ = quadratic(1)
    search = Descent(np.zeros(13), 0.01, lambda vector: 50 * vector)
    losses = []
    while not search.is_finished:
        search.tell(*evaluate(search.trial), len(losses))
        losses.append(evaluate(search.point)[0])
    assert all(later <= earlier for earlier, later in pairwise(losses))
    assert search.point[:-1] == pytest.approx(minimum[:-1], abs=1e-2)


def test_a_start_at_the_minimum_is_finished_at_once() -> None:
    evaluate, minimum, _ = quadratic(2)
    search = Descent(minimum, 0.01, lambda vector: vector)
    assert passes(search, evaluate) == 1
    assert search.has_converged


def test_a_loss_that_no_step_lowers_ends_without_convergence() -> None:
    search = Descent(np.ones(3), 0.01, lambda vector: vector)
    search.tell(1.0, np.ones(3), 1)
    n_passes = passes(search, lambda point: (2.0, np.ones(3)))
    assert n_passes == descent.MAX_HALVINGS + 1
    assert (search.is_finished, search.has_converged) == (True, False)
    assert search.point.tolist() == [1, 1, 1]
