from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.structure.captured import read_counts_of
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.threshold_rule import AUTO, ThresholdRule
from sdlms.structure.thresholds import curve_thresholds, matched_thresholds, thresholds_of
from tests.acts.sparse_samples import sparse_sample
from tests.structure.read_runs import captured, damage, published_latents, tokens_of

MEDIAN = ThresholdRule("quantile", 0.5)


def opened(run: Run, rule: ThresholdRule) -> Subject:
    return open_subject(run, "mlp_act", ("all",), rule)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ["--tasks", "qa,math", "--layers", "0,2", "--skip-first", 2]
    return captured(tmp_path_factory.mktemp("artifacts"), *words)


def test_under_its_own_rule_a_captures_thresholds_are_those_it_recorded(run: Run) -> None:
    recorded = read_counts_of(run, "/mlp_act/layer_2/thresholds")
    subject = opened(run, AUTO)
    assert np.array_equal(thresholds_of(subject, 2), recorded)
    assert np.array_equal(curve_thresholds(subject, 2)["quantile_0.9"], recorded)


def test_other_thresholds_are_fixed_or_quantiles(run: Run) -> None:
    fixed = thresholds_of(opened(run, ThresholdRule("fixed", 0.25)), 2)
    assert fixed.dtype == np.float32
    assert fixed.tolist() == [0.25] * 192
    subject = opened(run, MEDIAN)
    values = np.concatenate(tokens_of(subject, 2))
    expected = np.quantile(values, 0.5, axis=0, method="inverted_cdf")
    assert np.array_equal(thresholds_of(subject, 2), expected)


def test_a_curve_rises(run: Run) -> None:
    subject = opened(run, AUTO)
    curve = curve_thresholds(subject, 0)
    quantiles = [f"quantile_{f}" for f in (0.5, 0.9, 0.95, 0.99)]
    assert list(curve) == ["zero", *quantiles, "mean_plus_2sd"]
    assert not curve["zero"].any()
    for low, high in pairwise(quantiles):
        assert (curve[low] <= curve[high]).all()
    values = np.concatenate(tokens_of(subject, 0)).astype(np.float64)
    expected = values.mean(axis=0) + 2 * values.std(axis=0)
    np.testing.assert_allclose(curve["mean_plus_2sd"], expected, rtol=1e-5)


def test_matched_units_fire_as_often_as_they_shall(run: Run) -> None:
    subject = opened(run, AUTO)
    values = np.concatenate(tokens_of(subject, 2))
    n_tokens, n_units = values.shape
    fired = np.random.default_rng(0).integers(1, n_tokens, n_units)
    fired[:2] = 0, n_tokens
    limits = matched_thresholds(subject, 2, fired / n_tokens)
    assert limits.dtype == np.float32
    found = (values > limits).sum(axis=0)
    # No more than asked; the token at the threshold, and those that tie with it, would be more.
    assert (found <= fired).all()
    assert ((values >= limits).sum(axis=0) > fired)[2:].all()
    assert (found == fired).mean() > 0.5
    assert found[:2].tolist() == [0, n_tokens]


def test_rates_that_ties_forbid_are_not_exceeded(tmp_path: Path) -> None:
    data = sparse_sample([5, 8, 3, 9], 3, n_units=7)
    subject = open_subject(published_latents(tmp_path, data), None, ("all",), AUTO)
    values = np.concatenate(tokens_of(subject, 1))
    own = (values > 0).mean(axis=0)
    found = (values > matched_thresholds(subject, 1, np.full(7, 0.9))).mean(axis=0)
    assert np.array_equal(found, own)
    assert (own < 0.9).all()
    limits = matched_thresholds(subject, 1, own)
    assert np.array_equal((values > limits).mean(axis=0), own)


def test_the_curve_of_latents_leaves_out_what_would_be_zero(tmp_path: Path) -> None:
    data = sparse_sample([5, 8, 3, 9], 3, n_units=7)
    subject = open_subject(published_latents(tmp_path, data), None, ("all",), AUTO)
    assert not thresholds_of(subject, 1).any()
    curve = curve_thresholds(subject, 1)
    assert list(curve) == ["zero", "quantile_0.99", "mean_plus_2sd"]
    expected = np.concatenate(tokens_of(subject, 1)).max(axis=0)  # of fewer than 100 tokens
    assert np.array_equal(curve["quantile_0.99"], expected)


def test_a_damaged_run_is_one_line(tmp_path: Path) -> None:
    run = captured(tmp_path, "--tasks", "qa", "--layers", "0")
    subject = opened(run, AUTO)
    damage(run.path / "counts.h5")
    with pytest.raises(UserError, match=r"counts\.h5: damaged, or gone"):
        thresholds_of(subject, 0)
    damage(run.path / "activations.h5")
    with pytest.raises(UserError, match=r"activations\.h5 changed since it was loaded"):
        curve_thresholds(subject, 0)
