"""How well scores tell two classes apart; every metric is NaN where only one class is present."""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64] | NDArray[np.float32]
Targets = NDArray[np.bool_]


def auroc(scores: Scores, targets: Targets) -> float:
    """Chance that a random example of class 1 scores above one of class 0; a tie counts half.

    Args:
        scores: `[example]` float32 or float64, finite; only their order matters.
        targets: `[example]` bool, true for class 1.

    Returns:
        In [0, 1]; NaN where only one class is present.

    Raises:
        ValueError: other shapes or types, or a score that is not finite.

    Source: Mann and Whitney (1947); Hanley and McNeil (1982), with average ranks for ties.
    """
    positive, negative = split_by_class(scores, targets)
    if not len(positive) or not len(negative):
        return float("nan")
    negative = np.sort(negative)
    below = np.searchsorted(negative, positive, side="left").sum()
    not_above = np.searchsorted(negative, positive, side="right").sum()
    return float((below + not_above) / 2 / (len(positive) * len(negative)))


def average_precision(scores: Scores, targets: Targets) -> float:
    """Precision at each distinct score, weighted by the recall gained there; no interpolation.

    Args:
        scores: `[example]` float32 or float64, finite; only their order matters.
        targets: `[example]` bool.

    Returns:
        In (0, 1]; NaN where only one class is present.

    Raises:
        ValueError: as in `auroc`.

    Source: Manning, Raghavan and Schuetze (2008), Introduction to Information Retrieval, ch. 8.4.
    """
    positive, negative = split_by_class(scores, targets)
    if not len(positive) or not len(negative):
        return float("nan")
    levels, n_at_level = np.unique(positive, return_counts=True)
    true_positives = np.cumsum(n_at_level[::-1])[::-1]
    n_below = np.searchsorted(np.sort(negative), levels, side="left")
    precision = true_positives / (true_positives + len(negative) - n_below)
    return float(precision @ n_at_level / len(positive))


def accuracy(scores: Scores, targets: Targets) -> float:
    """Fraction of examples on the right side of 0.5; class 1 is predicted strictly above it.

    Args:
        scores: `[example]` float32 or float64 probabilities of class 1.
        targets: `[example]` bool.

    Returns:
        In [0, 1]; NaN where only one class is present.

    Raises:
        ValueError: as in `auroc`.
    """
    positive, negative = split_by_class(scores, targets)
    if not len(positive) or not len(negative):
        return float("nan")
    n_right = np.count_nonzero(positive > 0.5) + np.count_nonzero(negative <= 0.5)
    return float(n_right / len(scores))


def balanced_accuracy(scores: Scores, targets: Targets) -> float:
    """Mean of the two classes' accuracies at 0.5.

    Args:
        scores: `[example]` float32 or float64 probabilities of class 1.
        targets: `[example]` bool.

    Returns:
        In [0, 1], 0.5 for a constant score; NaN where only one class is present.

    Raises:
        ValueError: as in `auroc`.
    """
    positive, negative = split_by_class(scores, targets)
    if not len(positive) or not len(negative):
        return float("nan")
    return float(np.mean(positive > 0.5) + np.mean(negative <= 0.5)) / 2


def brier(scores: Scores, targets: Targets) -> float:
    """Mean squared distance of the probability of class 1 from the outcome; lower is better.

    Args:
        scores: `[example]` float32 or float64 probabilities of class 1.
        targets: `[example]` bool.

    Returns:
        In [0, 1]; NaN where only one class is present.

    Raises:
        ValueError: as in `auroc`, or a score outside [0, 1].

    Source: Brier (1950), "Verification of forecasts expressed in terms of probability", halved.
    """
    positive, negative = split_by_class(scores, targets)
    if scores.size and not 0 <= scores.min() <= scores.max() <= 1:
        raise ValueError("the Brier score is defined on probabilities in [0, 1]")
    if not len(positive) or not len(negative):
        return float("nan")
    squares = np.square(1 - positive).sum() + np.square(negative).sum()
    return float(squares / len(scores))


def recall_at_false_positive_rate(scores: Scores, targets: Targets, rate: float) -> float:
    """Fraction of class 1 strictly above the smallest threshold whose false positives are few.

    The threshold is the smallest number t for which at most `rate` of class 0 score strictly
    above t: a score of class 0, or minus infinity where `rate` is 1. Nothing is interpolated:
    with k = the largest count for which k / n_negatives <= rate, t is the (k + 1)-th largest
    score of class 0. Examples that tie with t count as class 0.

    Args:
        scores: `[example]` float32 or float64, finite; only their order matters.
        targets: `[example]` bool.
        rate: in [0, 1].

    Returns:
        In [0, 1]; NaN where only one class is present.

    Raises:
        ValueError: as in `auroc`, or a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a false positive rate lies in [0, 1], got {rate}")
    positive, negative = split_by_class(scores, targets)
    if not len(positive) or not len(negative):
        return float("nan")
    # Not floor(rate * n): 0.29 * 100 is 28.999..., though 29 / 100 <= 0.29.
    allowed = int(np.count_nonzero(np.arange(1, len(negative) + 1) / len(negative) <= rate))
    if allowed == len(negative):
        return 1.0
    threshold = np.sort(negative)[-1 - allowed]
    return float(np.mean(positive > threshold))


def split_by_class(
    scores: Scores, targets: Targets
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of class 1 and those of class 0, as float64, in their order.

    Args:
        scores: `[example]` float32 or float64, finite.
        targets: `[example]` bool.

    Returns:
        `[positive]` and `[negative]` float64.

    Raises:
        ValueError: other shapes or types, or a score that is not finite.
    """
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must be [example]")
    if targets.dtype != np.bool_ or scores.dtype.kind != "f":
        raise ValueError(f"scores are floats and targets bool, not {scores.dtype}, {targets.dtype}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    exact = scores.astype(np.float64)
    return exact[targets], exact[~targets]
