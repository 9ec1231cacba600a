import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.probes import logistic_streamed
from sdlms.probes.logistic_fit import fit_logistic
from sdlms.probes.logistic_streamed import Blocks, fit_logistic_streamed


def data(kind: str, n_examples: int, n_units: int, n_labels: int = 1) -> tuple[Tensor, Tensor]:
    """Examples, and labels of which each is rarer than the one before."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n_examples, n_units))
    logits = 2 * x @ generator.normal(size=(n_units, n_labels)) / np.sqrt(n_units)
    noise = generator.logistic(size=logits.shape) * (0.01 if kind == "separable" else 1)
    y = logits - np.arange(n_labels) + noise > 0
    if kind == "correlated":
        x = x * np.logspace(0, -3, n_units) + 3 * x[:, :1]
    if kind == "constant":
        x[:, ::3] = 0.1
    if kind == "offset":
        x = x * np.logspace(-2, 2, n_units) + 1e3
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def in_blocks(x: Tensor, y: Tensor, size: int = 170) -> Blocks:
    return lambda: zip(torch.split(x, size), torch.split(y, size), strict=True)


@pytest.mark.parametrize("kind", ["plain", "separable", "correlated", "constant", "offset"])
@pytest.mark.parametrize("shape", [(900, 40), (60, 90)])
def test_weights_are_those_of_the_fit_in_memory(kind: str, shape: tuple[int, int]) -> None:
    x, y = data(kind, *shape)
    (found,) = fit_logistic_streamed(in_blocks(x, y[:, 0]), shape[1])
    expected = fit_logistic(x, y[:, 0])
    assert found.converged
    largest = expected.weight.abs().max()
    assert (found.weight - expected.weight).abs().max() <= 1e-3 * largest
    assert found.bias == pytest.approx(expected.bias, abs=1e-3 * (1 + float(largest)))
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-12)


@pytest.mark.parametrize("c", [0.01, 30.0])
def test_the_penalty_is_that_of_the_fit_in_memory(c: float) -> None:
    x, y = data("plain", 500, 20)
    (found,) = fit_logistic_streamed(in_blocks(x, y), 20, c)
    expected = fit_logistic(x, y[:, 0], c=c).weight
    assert (found.weight - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_labels_share_their_passes_and_know_nothing_of_each_other() -> None:
    x, y = data("plain", 900, 30, n_labels=4)
    n_passes = 0

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal n_passes
        n_passes += 1
        yield from in_blocks(x, y)()

    together = fit_logistic_streamed(blocks, 30)
    assert n_passes == max(fit.n_iterations for fit in together)
    for label, fit in enumerate(together):
        (alone,) = fit_logistic_streamed(in_blocks(x, y[:, label]), 30)
        np.testing.assert_allclose(fit.weight, alone.weight, rtol=1e-9, atol=1e-12)
        assert fit.n_iterations == alone.n_iterations <= 20


def test_cuts_between_blocks_do_not_matter() -> None:
    x, y = data("plain", 500, 20)
    (one,) = fit_logistic_streamed(in_blocks(x, y, 500), 20)
    (other,) = fit_logistic_streamed(in_blocks(x, y, 7), 20)
    np.testing.assert_allclose(one.weight, other.weight, rtol=1e-5, atol=1e-7)


def test_blocks_without_examples_change_nothing() -> None:
    x, y = data("plain", 100, 5)
    with_gaps = [(x[:0], y[:0]), (x[:60], y[:60]), (x[:0], y[:0]), (x[60:], y[60:])]
    (found,) = fit_logistic_streamed(lambda: with_gaps, 5)
    (expected,) = fit_logistic_streamed(in_blocks(x, y, 60), 5)
    assert torch.equal(found.weight, expected.weight)


def test_memory_does_not_depend_on_the_number_of_examples() -> None:
    """numpy's by tracemalloc, torch's by the blocks that are alive."""
    alive, most = 0, 0

    def released() -> None:
        nonlocal alive
        alive -= 1

    def blocks_of(n_blocks: int) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal alive, most
            for seed in range(n_blocks):
                x = torch.randn(500, 30, generator=torch.Generator().manual_seed(seed))
                weakref.finalize(x, released)
                alive += 1
                most = max(most, alive)
                yield x, x[:, 0] > 0.5 * x[:, 1]

        return blocks

    def peak_bytes(n_blocks: int) -> int:
        gc.collect()
        tracemalloc.start()
        fit_logistic_streamed(blocks_of(n_blocks), 30)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(2)
    assert peak_bytes(40) <= 1.2 * peak_bytes(4)
    assert most <= 2


def test_too_few_passes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic_streamed, "MAX_PASSES", 4)
    (fit,) = fit_logistic_streamed(in_blocks(*data("plain", 500, 20)), 20)
    assert (fit.converged, fit.n_iterations) == (False, 4)


def test_a_label_of_one_class_is_the_users_to_mend() -> None:
    x, y = data("plain", 50, 4, n_labels=2)
    y[:, 1] = True
    for blocks in (in_blocks(x, y), in_blocks(x[:0], y[:0])):
        with pytest.raises(UserError, match="both classes"):
            fit_logistic_streamed(blocks, 4)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = data("plain", 50, 4)
    for wrong in (y.float(), y[:-1], y[None]):
        with pytest.raises(ValueError, match="need y"):
            fit_logistic_streamed(lambda wrong=wrong: iter([(x, wrong)]), 4)
    with pytest.raises(ValueError, match="block"):
        fit_logistic_streamed(in_blocks(x, y), 5)
    with pytest.raises(ValueError, match="c must"):
        fit_logistic_streamed(in_blocks(x, y), 4, c=-1)
    with pytest.raises(ValueError, match="finite"):
        fit_logistic_streamed(in_blocks(x / 0, y), 4)


def test_other_examples_in_a_later_pass_are_noticed() -> None:
    x, y = data("plain", 50, 4)
    lengths = iter([50, 49])

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        n_examples = next(lengths)
        yield x[:n_examples], y[:n_examples]

    with pytest.raises(ValueError, match="49 examples in one pass, 50 in the first"):
        fit_logistic_streamed(blocks, 4)
