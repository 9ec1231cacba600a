"""Draws are paired, within tasks, and count no document twice; intervals cover what they should."""

import numpy as np
import pytest

from sdlms.dynamic import resampling
from sdlms.dynamic.losses import DocumentLosses
from sdlms.dynamic.resampling import N_RESAMPLES, resampled, resampled_together
from tests.dynamic.made_losses import at_random, made, worse


def test_draw_0_is_the_data() -> None:
    losses = at_random(0)
    found = resampled([losses], 0)
    assert found.sums.shape == found.counts.shape == (N_RESAMPLES + 1, 1, 2)
    for task in (0, 1):
        own = losses.task == task
        nats = losses.sums[own].sum() / losses.counts[own].sum()
        assert found.nats(task)[0, 0] == pytest.approx(nats, rel=1e-14)
        assert found.n_tokens(task) == losses.counts[own].sum()
        assert found.n_documents(task) == own.sum()
    overall = losses.sums.sum() / losses.counts.sum()  # by tokens, not by tasks
    assert found.nats(None)[0, 0] == pytest.approx(overall, rel=1e-14)
    assert found.n_tokens(None) == losses.counts.sum()
    assert found.n_documents(None) == len(losses.ids)


def test_draws_are_paired_and_depend_on_the_seed() -> None:
    losses = at_random(0)
    found = resampled([losses], 0)
    lost = resampled([worse(losses, 0.25)], 0)
    assert np.array_equal(found.counts, lost.counts)
    for task in (None, 0, 1):
        np.testing.assert_allclose(lost.nats(task) - found.nats(task), 0.25, rtol=1e-9)
    assert np.array_equal(resampled([losses], 0).sums, found.sums)
    assert not np.array_equal(resampled([losses], 1).sums, found.sums)


def test_documents_are_drawn_within_their_tasks() -> None:
    losses = made([1.0] * 9, [1] * 9, [0] * 4 + [1] * 5)
    found = resampled([losses], 0)
    assert (found.counts[:, 0] == [4, 5]).all()
    assert (found.sums == found.counts).all()


def test_draws_are_those_of_a_plain_bootstrap() -> None:
    """The spread of a mean over n documents of equal length is sd / sqrt(n)."""
    generator = np.random.default_rng(0)
    values = generator.normal(2, 0.3, 200)
    draws = resampled([made(values * 50, [50] * 200)], 0).nats(None)[1:, 0]
    assert draws.mean() == pytest.approx(values.mean(), abs=0.003)
    assert draws.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.1)


def test_a_document_of_several_seeds_is_drawn_once_for_all() -> None:
    losses = at_random(0)
    once, twice = resampled([losses], 0), resampled([losses, losses], 0)
    assert twice.n_documents(None) == once.n_documents(None)
    assert twice.n_tokens(None) == 2 * once.n_tokens(None)
    for seed in (0, 1):
        np.testing.assert_allclose(twice.nats(None)[:, seed], once.nats(None)[:, 0], rtol=1e-14)


def test_the_order_of_documents_changes_nothing() -> None:
    losses = at_random(0)
    order = np.random.default_rng(1).permutation(len(losses.ids))
    turned = DocumentLosses(
        [losses.ids[n] for n in order],
        *(column[order] for column in (losses.task, losses.counts, losses.sums)),
    )
    assert np.array_equal(resampled([turned], 0).sums, resampled([losses], 0).sums)


def test_seeds_that_share_some_documents() -> None:
    first = made([2.0, 4.0, 6.0], [1, 2, 3], ids=["a", "b", "c"])
    second = made([8.0, 1.0], [4, 1], ids=["c", "d"])
    found = resampled([first, second], 0)
    assert found.n_documents(0) == 4
    assert found.counts[0, :, 0].tolist() == [6, 5]
    assert found.sums[0, :, 0].tolist() == [12, 9]
    absent = found.absent(0)
    assert not absent[0].any() and absent.any()  # some draws have neither c nor d
    assert np.isnan(found.nats(0)[absent]).all()
    assert not np.isnan(found.nats(0)[~absent]).any()


def test_few_draws_at_a_time_are_as_good_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = at_random(0)
    whole = resampled([losses], 0)
    monkeypatch.setattr(resampling, "BLOCK_NUMBERS", 30 * 7)
    pieces = resampled([losses], 0)
    assert pieces.sums.shape == whole.sums.shape
    assert np.array_equal(pieces.sums[0], whole.sums[0])
    assert len(np.unique(pieces.sums[:, 0, 0])) > 900
    assert pieces.nats(None).std() == pytest.approx(whole.nats(None).std(), rel=0.1)


def test_a_task_of_one_document_has_no_interval() -> None:
    found = resampled([made([1.0, 1.0, 2.0], [1, 1, 1], [0, 0, 1])], 0)
    assert found.has_interval(0)
    assert not found.has_interval(1)
    assert not found.has_interval(None)


def test_a_loss_that_is_not_finite_is_nan() -> None:
    for bad in (np.inf, np.nan):
        found = resampled([made([bad, 1.0, 2.0, 3.0], [1, 1, 1, 1], [0, 0, 1, 1])], 0)
        assert np.isnan(found.nats(0)).all() and np.isnan(found.nats(None)).all()
        assert np.isfinite(found.nats(1)).all()


@pytest.mark.parametrize("block_numbers", [resampling.BLOCK_NUMBERS, 30 * 7])
def test_models_that_are_drawn_together_are_drawn_as_each_alone(
    monkeypatch: pytest.MonkeyPatch, block_numbers: int
) -> None:
    monkeypatch.setattr(resampling, "BLOCK_NUMBERS", block_numbers)
    dense = [at_random(0), at_random(0)._replace(ids=[f"other-{n}" for n in range(30)])]
    broken = [dense[0], dense[1]._replace(sums=np.full(30, np.inf))]
    models = [dense, [worse(each, 0.3) for each in dense], broken]
    together = resampled_together(models, 7)
    assert len(together) == 3
    for found, own in zip(together, models, strict=True):
        alone = resampled(own, 7)
        assert np.array_equal(found.sums, alone.sums, equal_nan=True)
        assert np.array_equal(found.counts, alone.counts)
        assert np.array_equal(found.documents, alone.documents)


def test_models_of_other_documents_are_not_drawn_together() -> None:
    first, second = made([1.0, 2.0], [1, 1]), made([1.0, 2.0, 3.0], [1, 1, 1])
    with pytest.raises(ValueError, match="measured in other documents"):
        resampled_together([[first], [second]], 0)
    other_tasks = made([1.0, 2.0], [1, 1], [0, 1])
    with pytest.raises(ValueError, match="measured in other documents"):
        resampled_together([[first], [other_tasks]], 0)
