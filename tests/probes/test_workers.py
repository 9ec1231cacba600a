import itertools
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from sdlms.probes.workers import one_blas_thread, spread


def blas_threads() -> set[int]:
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


def test_results_come_in_the_order_of_the_problems() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(spread(slow_first, range(9), threads=3)) == [n * n for n in range(9)]
    assert list(spread(slow_first, [], threads=2)) == []


def test_few_problems_are_in_memory_at_once() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = spread(lambda number: number, endless(), threads=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert len(taken) <= 5 + 2 * 2


def test_each_worker_has_one_thread_of_blas_and_torch() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        found = list(spread(lambda _: (blas_threads(), torch.get_num_threads()), range(3), 2))
        assert found == [({1}, 1)] * 3
        assert blas_threads() == {2}


def test_threads_that_overlap_leave_everything_as_it_was() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = list(warnings.filters)
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with one_blas_thread():
                entered.set()
                leave.wait()

        thread = threading.Thread(target=other)
        with one_blas_thread():
            thread.start()
            entered.wait()
            assert blas_threads() == {1}
        warnings.warn("the other is inside", ConvergenceWarning, stacklevel=1)
        leave.set()
        thread.join()
        assert blas_threads() == {2}
        assert list(warnings.filters) == before


def test_fits_inside_workers_restore_nothing_too_early() -> None:
    def fit(number: int) -> set[int]:
        with one_blas_thread():
            time.sleep(0.001 * number)
        return blas_threads()

    with threadpool_limits(2, user_api="blas"):
        assert list(spread(fit, range(6), threads=3)) == [{1}] * 6
        assert blas_threads() == {2}


def test_convergence_warnings_are_silent_inside_only() -> None:
    with one_blas_thread():
        warnings.warn("inside", ConvergenceWarning, stacklevel=1)
    with pytest.warns(ConvergenceWarning, match="outside"):
        warnings.warn("outside", ConvergenceWarning, stacklevel=1)


def test_an_error_comes_in_the_place_of_its_problem() -> None:
    results = spread(lambda number: 6 // number, [3, 2, 0, 1], threads=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="threads"):
        list(spread(abs, [1], threads=0))
