"""Many small fits side by side, one BLAS thread each: more threads per fit are slower by far."""

import functools
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

Problem = TypeVar("Problem")
Fit = TypeVar("Fit")


@functools.cache
def _controller() -> ThreadpoolController:
    """Finding the loaded libraries takes milliseconds: once is enough."""
    return ThreadpoolController()


class _SilentConvergence:
    """No ConvergenceWarning of scikit-learn while at least one thread is inside.

    `warnings.catch_warnings` alone would not do: threads that overlap restore each other's state.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._restoring = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._n_inside += 1
            if self._n_inside == 1:
                self._restoring.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", ConvergenceWarning)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._restoring.close()


_SILENT_CONVERGENCE = _SilentConvergence()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep numpy, scipy and scikit-learn to one thread, in the whole process, until it ends.

    The number of threads belongs to the process, and threadpoolctl lets the first thread that
    sets it have it: threads inside meanwhile neither change nor restore it. scikit-learn's
    ConvergenceWarning is silent inside; fits say themselves whether they converged.
    """
    with _controller().limit(limits=1, user_api="blas"), _SILENT_CONVERGENCE:
        yield


def spread(
    function: Callable[[Problem], Fit], problems: Iterable[Problem], threads: int
) -> Iterator[Fit]:
    """Apply `function` to each problem on `threads` workers, results in the problems' order.

    Problems are taken as workers come free, two per worker at most in memory. Close the
    generator (or exhaust it) to give back the process's threads.

    Args:
        function: a fit; runs with one BLAS and one torch thread.
        problems: any number.
        threads: workers, > 0.

    Yields:
        One result per problem.

    Raises:
        ValueError: `threads` < 1. Whatever `function` raises is raised in its problem's place.
    """
    if threads < 1:
        raise ValueError(f"threads must be > 0, got {threads}")
    one_torch_thread = functools.partial(torch.set_num_threads, 1)
    waiting: deque[Future[Fit]] = deque()
    with one_blas_thread(), ThreadPoolExecutor(threads, initializer=one_torch_thread) as pool:
        for problem in problems:
            waiting.append(pool.submit(function, problem))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
