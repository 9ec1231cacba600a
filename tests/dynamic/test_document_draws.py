import numpy as np
import pytest

from sdlms.dynamic.document_draws import DocumentDraws, cells, with_interval
from sdlms.numerics.document_bootstrap import Estimate

TASKS = [0, 0, 0, 1, 1, 1, 1]
ABOVE = np.array([1.0, 5.0, 2.0, 9.0, 7.0, 8.0, 3.0])
BELOW = np.array([2, 4, 2, 3, 3, 5, 1])
EVERYWHERE = np.ones(7, dtype=np.bool_)


def test_the_first_draw_is_the_data_and_others_keep_each_task_as_large() -> None:
    draws = DocumentDraws.of(TASKS, 0)
    assert draws.weights.shape == (1001, 7)
    assert (draws.weights[0] == 1).all()
    assert (draws.weights[:, :3].sum(axis=1) == 3).all()
    assert (draws.weights[:, 3:].sum(axis=1) == 4).all()


def test_ratios_are_of_sums_over_the_documents_that_are_meant() -> None:
    draws, where = DocumentDraws.of(TASKS, 0), np.array(TASKS) == 1
    found = draws.ratio(ABOVE, BELOW, where)
    for number in (0, 1, 500):
        own = [i for i in range(7) if where[i] for _ in range(int(draws.weights[number, i]))]
        expected = sum(ABOVE[i] for i in own) / sum(BELOW[i] for i in own)
        assert found[number] == pytest.approx(expected)


def test_an_interval_is_the_middle_of_the_resamples() -> None:
    draws = DocumentDraws.of(TASKS, 0)
    found = draws.ratio(ABOVE, BELOW, EVERYWHERE)
    value, low, high = draws.estimate(found, EVERYWHERE)
    assert value == ABOVE.sum() / BELOW.sum()
    assert (low, high) == tuple(np.quantile(found[1:], [0.025, 0.975]))
    assert low < value < high


def test_without_tokens_there_is_no_number_and_from_one_document_no_interval() -> None:
    draws = DocumentDraws.of([0, 1, 1], 0)
    everything, first = np.ones(3, dtype=np.bool_), np.array([True, False, False])
    nothing = draws.estimate(draws.ratio(np.ones(3), np.zeros(3), everything), everything)
    assert np.isnan(nothing).all()
    single = draws.estimate(draws.ratio(np.ones(3), np.full(3, 2), first), first)
    assert single.value == 0.5
    assert np.isnan(single[1:]).all()
    nowhere = np.zeros(3, dtype=np.bool_)
    assert np.isnan(draws.estimate(draws.ratio(np.ones(3), np.ones(3), nowhere), nowhere)).all()


def test_no_interval_where_a_resample_has_no_denominator() -> None:
    draws = DocumentDraws.of([0, 0], 0)
    found = draws.estimate(draws.ratio([1, 1], [0, 1], np.ones(2, np.bool_)), np.ones(2, np.bool_))
    assert found.value == 2
    assert np.isnan(found.low)


def test_a_seed_draws_the_same_documents() -> None:
    one, same, other = (DocumentDraws.of(TASKS, seed).weights for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_columns_of_an_estimate() -> None:
    assert cells("x", Estimate(1, 2, 3)) == dict(zip(with_interval("x"), (1, 2, 3), strict=True))
