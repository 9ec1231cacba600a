import math

import numpy as np
import pytest
from scipy.stats import fisher_exact

from sdlms.numerics.false_discovery import benjamini_hochberg
from sdlms.structure.enrichment import COLUMNS, Preferences, community_tasks

TASKS = ("code", "math", "qa")


def preferences_of(preferred: np.ndarray, scored: np.ndarray | None = None) -> Preferences:
    """Units that fire twice as often in the task that they prefer."""
    rates = np.full((len(TASKS), len(preferred)), 0.1)
    rates[preferred % len(TASKS), np.arange(len(preferred))] = 0.2
    return Preferences(
        preferred, np.full(len(preferred), True) if scored is None else scored, rates, TASKS
    )


def planted() -> tuple[np.ndarray, Preferences]:
    """Community 0 prefers math; 1 and 2 prefer anything; 3 is one unit; some have none."""
    generator = np.random.default_rng(0)
    communities = np.concatenate([np.repeat([0, 1, 2], 30), [3], np.full(60, -1)])
    preferred = generator.integers(0, 3, len(communities))
    preferred[:25] = 1
    scored = generator.random(len(communities)) < 0.9
    preferred[~scored] = -1
    return communities, preferences_of(preferred, scored)


def test_p_is_that_of_fishers_exact_test() -> None:
    communities, preferences = planted()
    rows = community_tasks(2, communities, preferences)
    assert [list(row) for row in rows] == [list(rows[0])] * 9
    assert set(rows[0]) == set(COLUMNS)
    preferred, scored = preferences.preferred, preferences.scored
    for row in rows:
        members = communities == row["community"]
        prefers = preferred == TASKS.index(str(row["task"]))
        own, rest = scored & members, scored & ~members
        table = [
            [(own & prefers).sum(), (own & ~prefers).sum()],
            [(rest & prefers).sum(), (rest & ~prefers).sum()],
        ]
        assert row["p"] == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
        assert row["layer"] == 2
        assert row["units"] == 30
        assert row["scored"] == own.sum()
        assert row["preferring"] == table[0][0]
        assert row["fraction"] == table[0][0] / own.sum()
        assert row["expected"] == pytest.approx(own.sum() * (scored & prefers).sum() / scored.sum())


def test_q_is_over_all_tests_and_the_planted_one_is_enriched() -> None:
    rows = community_tasks(0, *planted())
    p = np.array([row["p"] for row in rows])
    assert [row["q"] for row in rows] == pytest.approx(benjamini_hochberg(p))
    assert all(row["enriched"] == int(float(row["q"]) < 0.05) for row in rows)
    enriched = [(row["community"], row["task"]) for row in rows if row["enriched"]]
    assert enriched == [(0, "math")]


def test_rate_ratio_is_the_mean_over_scored_units() -> None:
    scored = np.array([True, True, True, False])
    preferences = preferences_of(np.array([0, 0, 1, 2]), scored)
    rows = community_tasks(0, np.zeros(4, dtype=int), preferences)
    assert [row["rate_ratio"] for row in rows] == pytest.approx([1.25, 1.0, 0.75])


def test_few_false_discoveries_where_units_prefer_at_random() -> None:
    enriched = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        preferences = preferences_of(generator.integers(0, 3, 200))
        rows = community_tasks(0, generator.integers(-1, 6, 200), preferences)
        enriched.append(any(row["enriched"] for row in rows))
    assert np.mean(enriched) < 0.08


def test_a_community_without_scored_units_says_nothing() -> None:
    communities = np.array([0, 0, 1, 1])
    scored = np.array([True, True, False, False])
    rows = community_tasks(0, communities, preferences_of(np.array([0, 0, -1, -1]), scored))
    for row in rows[3:]:
        assert row["scored"] == row["preferring"] == row["expected"] == row["enriched"] == 0
        assert row["p"] == 1
        assert math.isnan(float(row["fraction"]))
        assert math.isnan(float(row["rate_ratio"]))


def test_no_community_gives_no_row() -> None:
    preferences = preferences_of(np.array([0, 1]))
    assert community_tasks(0, np.array([-1, -1]), preferences) == []
    assert community_tasks(0, np.array([0, 1]), preferences) == []  # of one unit each
