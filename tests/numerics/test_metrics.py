import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as outside

from sdlms.numerics.metrics import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    recall_at_false_positive_rate,
)

RANKED = [auroc, average_precision, accuracy, balanced_accuracy, brier]
# Few levels, so that ties within and between the classes are common; 0.5 is among them.
EXAMPLES = st.lists(
    st.tuples(st.integers(0, 8).map(lambda level: level / 8), st.booleans()),
    min_size=2,
    max_size=60,
).filter(lambda pairs: len({target for _, target in pairs}) == 2)
Pairs = list[tuple[float, bool]]


def arrays(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = zip(*pairs, strict=True)
    return np.array(scores), np.array(targets)


@given(EXAMPLES)
def test_metrics_agree_with_scikit_learn(pairs: Pairs) -> None:
    scores, targets = arrays(pairs)
    predicted = scores > 0.5
    assert auroc(scores, targets) == pytest.approx(outside.roc_auc_score(targets, scores))
    expected = outside.average_precision_score(targets, scores)
    assert average_precision(scores, targets) == pytest.approx(expected)
    assert accuracy(scores, targets) == outside.accuracy_score(targets, predicted)
    expected = outside.balanced_accuracy_score(targets, predicted)
    assert balanced_accuracy(scores, targets) == pytest.approx(expected)
    assert brier(scores, targets) == pytest.approx(outside.brier_score_loss(targets, scores))


@given(EXAMPLES)
def test_auroc_is_the_fraction_of_pairs_won(pairs: Pairs) -> None:
    positive = [score for score, target in pairs if target]
    negative = [score for score, target in pairs if not target]
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auroc(*arrays(pairs)) == pytest.approx(wins / (len(positive) * len(negative)))


@given(EXAMPLES, st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.05, 0.29, 0.3, 1.0])))
def test_recall_is_the_best_that_any_threshold_reaches(pairs: Pairs, rate: float) -> None:
    scores, targets = arrays(pairs)
    false_rates, recalls, _ = outside.roc_curve(targets, scores, drop_intermediate=False)
    expected = recalls[false_rates <= rate].max()
    assert recall_at_false_positive_rate(scores, targets, rate) == pytest.approx(expected)


def test_false_positives_are_counted_not_rounded() -> None:
    """0.29 * 100 is 28.999... in floating point, yet 29 of 100 is not more than 0.29."""
    scores = np.concatenate([np.arange(100) / 100, [0.705]])
    targets = np.arange(101) == 100
    assert recall_at_false_positive_rate(scores, targets, 0.29) == 1
    assert recall_at_false_positive_rate(scores, targets, 0.28) == 0


def test_class_1_that_ties_with_the_threshold_is_not_recalled() -> None:
    targets = np.array([False, True])
    assert recall_at_false_positive_rate(np.array([0.5, 0.5]), targets, 0.0) == 0
    assert recall_at_false_positive_rate(np.array([0.5, 0.5]), targets, 1.0) == 1


def test_one_class_only_is_nan() -> None:
    for targets in (np.ones(3, dtype=bool), np.zeros(3, dtype=bool)):
        scores = np.array([0.1, 0.2, 0.3])
        assert all(math.isnan(metric(scores, targets)) for metric in RANKED)
        assert math.isnan(recall_at_false_positive_rate(scores, targets, 0.05))


def test_float32_scores_count_like_their_float64_values() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random(500).astype(np.float32)
    targets = generator.random(500) < scores
    for metric in RANKED:
        assert metric(scores, targets) == metric(scores.astype(np.float64), targets)


def test_what_is_not_scores_and_targets_is_refused() -> None:
    scores, targets = np.array([0.1, 0.9]), np.array([False, True])
    for wrong in (np.array([0.1, np.nan]), np.array([[0.1, 0.9]]), np.array([0, 1])):
        with pytest.raises(ValueError, match="score"):
            auroc(wrong, targets)
    with pytest.raises(ValueError, match="bool"):
        auroc(scores, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="probabilities"):
        brier(np.array([0.1, 1.5]), targets)
    with pytest.raises(ValueError, match="rate"):
        recall_at_false_positive_rate(scores, targets, 5)
