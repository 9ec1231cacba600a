import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sdlms.numerics import bootstrap
from sdlms.numerics.bootstrap import auroc_interval

TRUE_AUROC = 0.5 * (1 + math.erf(1 / math.sqrt(2)))  # N(1, 1/2) exceeds N(0, 1/2)


def documents(seed: int, n_documents: int, n_tokens: int) -> tuple[np.ndarray, ...]:
    """Scores whose noise is the document's own: its tokens hardly add information."""
    generator = np.random.default_rng(seed)
    classes = np.arange(n_documents) % 2 == 0
    centres = classes + generator.normal(size=n_documents) * math.sqrt(0.5)
    scores = centres[:, None] + generator.normal(size=(n_documents, n_tokens)) * 1e-3
    groups = np.repeat(np.arange(n_documents), n_tokens)
    return scores.ravel(), np.repeat(classes, n_tokens), groups


def test_resamples_agree_with_duplicated_groups() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 7, size=60) * 10 - 3
    scores = generator.integers(0, 9, size=60) / 8
    targets = generator.random(60) < 0.4
    names = np.unique(groups)
    draws = np.random.default_rng(5)
    values = []
    for _ in range(200):
        chosen = names[draws.integers(len(names), size=len(names))]
        rows = np.concatenate([np.flatnonzero(groups == name) for name in chosen])
        if 0 < targets[rows].sum() < len(rows):
            values.append(roc_auc_score(targets[rows], scores[rows]))
    found = auroc_interval(scores, targets, groups, n_resamples=200, seed=5)
    assert found == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_resamples_of_one_class_are_left_out() -> None:
    scores, targets, groups = np.array([0.2, 0.8]), np.array([False, True]), np.array([0, 1])
    assert auroc_interval(scores, targets, groups, n_resamples=50) == (1, 1)


def test_blocks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets, groups = documents(0, 30, 4)
    whole = auroc_interval(scores, targets, groups, n_resamples=100)
    monkeypatch.setattr(bootstrap, "BLOCK_NUMBERS", 1000)
    assert auroc_interval(scores, targets, groups, n_resamples=100) == whole


def test_no_resample_with_both_classes_is_nan() -> None:
    targets = np.array([True, True])
    found = auroc_interval(np.array([0.1, 0.2]), targets, np.array([0, 1]))
    assert all(math.isnan(end) for end in found)
    nothing = auroc_interval(np.array([]), np.array([], dtype=bool), np.array([], dtype=int))
    assert all(math.isnan(end) for end in nothing)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered, blind = 0, 0
    for seed in range(200):
        scores, targets, groups = documents(seed, 100, 3)
        low, high = auroc_interval(scores, targets, groups, n_resamples=300, seed=seed)
        covered += low <= TRUE_AUROC <= high
        # Tokens drawn as if independent: far too narrow.
        tokens = np.arange(len(scores))
        low, high = auroc_interval(scores, targets, tokens, n_resamples=300, seed=seed)
        blind += low <= TRUE_AUROC <= high
    assert 0.90 <= covered / 200 <= 0.985
    assert blind / 200 < 0.85


def test_the_seed_decides_and_a_higher_level_is_wider() -> None:
    data = documents(1, 60, 1)
    first = auroc_interval(*data, seed=1)
    assert auroc_interval(*data, seed=1) == first
    assert auroc_interval(*data, seed=2) != first
    low, high = auroc_interval(*data, level=0.5, seed=1)
    assert first[0] < low < high < first[1]


def test_settings_out_of_range_are_refused() -> None:
    data = documents(0, 4, 1)
    with pytest.raises(ValueError, match="n_resamples"):
        auroc_interval(*data, n_resamples=0)
    with pytest.raises(ValueError, match="level"):
        auroc_interval(*data, level=95)
    with pytest.raises(ValueError, match="groups"):
        auroc_interval(data[0], data[1], data[2][:-1])
