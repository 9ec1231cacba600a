import math
from typing import Any

import numpy as np
import pytest

from sdlms.dynamic.specialist_rows import (
    ALIKE,
    ANY_NEURONS,
    COLUMNS,
    HELPS,
    HELPS_OTHERS,
    LESS,
    MOST,
    NO_NEURON,
    NOTHING,
    ONLY,
    OTHERS_MORE,
    UNDECIDED,
    Effects,
    reading_of,
    rows_of,
)
from sdlms.numerics.document_bootstrap import UNKNOWN, Estimate

ABOVE, HOLDING, BELOW = Estimate(2, 1, 3), Estimate(0.5, 0, 2), Estimate(-2, -3, -1)
N_SETS = 5


def part_of(
    changes: np.ndarray[Any, Any] | None,
    random: np.ndarray[Any, Any],
    tasks: list[int],
    **others: object,
) -> dict[str, Any]:
    """One task's neurons, 4 of 20, in documents of 10 tokens each of two tasks."""
    n_documents = len(tasks)
    first = {
        "n_neurons": 0 if changes is None else 4,
        "kept": [20] * n_documents,
        "changes": None if changes is None else changes.tolist(),
        "random_kept": [0.5] * len(random),
        "random_changes": random.tolist(),
    }
    part: dict[str, Any] = {
        "rule": "post-norm",
        "keep": 0.3,
        "task_names": ["math", "qa"],
        "tokens": [10] * n_documents,
        "document_tasks": tasks,
        "kept": [60] * n_documents,
        "n_neurons": 20,
        "tasks": {"math": first},
    }
    return {**part, **others}


def row_of(part: dict[str, Any]) -> dict[str, Any]:
    """Its only row."""
    (row,) = rows_of([part], 0)
    assert list(row) == COLUMNS
    return row


@pytest.mark.parametrize(
    ("own", "excess", "difference", "elsewhere", "reading"),
    [
        (ABOVE, ABOVE, ABOVE, HOLDING, ONLY),
        (ABOVE, ABOVE, ABOVE, BELOW, HELPS_OTHERS),
        (ABOVE, ABOVE, ABOVE, ABOVE, MOST),
        (ABOVE, ABOVE, HOLDING, ABOVE, ALIKE),
        (ABOVE, ABOVE, HOLDING, HOLDING, ALIKE),
        (ABOVE, ABOVE, BELOW, ABOVE, OTHERS_MORE),
        (ABOVE, HOLDING, ABOVE, HOLDING, ANY_NEURONS),
        (ABOVE, BELOW, ABOVE, ABOVE, LESS),
        (HOLDING, ABOVE, ABOVE, BELOW, NOTHING),
        (HOLDING, HOLDING, HOLDING, HOLDING, NOTHING),
        (HOLDING, BELOW, BELOW, ABOVE, LESS),
        (BELOW, ABOVE, BELOW, HOLDING, HELPS),
        (BELOW, HOLDING, BELOW, HOLDING, ANY_NEURONS),
        (BELOW, BELOW, BELOW, BELOW, HELPS),
        (UNKNOWN, ABOVE, ABOVE, ABOVE, UNDECIDED),
        (ABOVE, UNKNOWN, ABOVE, ABOVE, UNDECIDED),
        (ABOVE, ABOVE, UNKNOWN, ABOVE, UNDECIDED),
        (ABOVE, ABOVE, ABOVE, UNKNOWN, UNDECIDED),
        (HOLDING, HOLDING, UNKNOWN, UNKNOWN, NOTHING),
    ],
)
def test_readings(
    own: Estimate, excess: Estimate, difference: Estimate, elsewhere: Estimate, reading: str
) -> None:
    assert reading_of(Effects(own, elsewhere, difference, excess)) == reading


def test_numbers_are_those_of_plain_sums() -> None:
    random = np.random.default_rng(0)
    tasks = [0, 0, 0, 1, 1, 1, 1]
    changes, sets = random.normal(5, 1, 7), random.normal(1, 1, (N_SETS, 7))
    part = part_of(changes, sets, tasks)
    part["tasks"]["math"]["kept"] = [40, 30, 20, 8, 8, 4, 0]
    row = row_of(part)
    own, off = changes[:3].sum() / 30, changes[3:].sum() / 40
    assert row["in_task_delta_nats"] == pytest.approx(own)
    assert row["off_task_delta_nats"] == pytest.approx(off)
    assert row["difference_nats"] == pytest.approx(own - off)
    assert row["random_in_task_delta_nats"] == pytest.approx(sets[:, :3].sum(axis=1).mean() / 30)
    assert row["excess_nats"] == pytest.approx(own - sets[:, :3].sum(axis=1).mean() / 30)
    assert row["kept_in_task"] == pytest.approx(90 / (30 * 4))
    assert row["kept_off_task"] == pytest.approx(20 / (40 * 4))
    assert row["kept_difference"] == pytest.approx(90 / 120 - 20 / 160)
    assert row["others_kept_in_task"] == pytest.approx((180 - 90) / (30 * 16))
    assert row["others_kept_off_task"] == pytest.approx((240 - 20) / (40 * 16))
    assert (row["in_task_documents"], row["off_task_tokens"]) == (3, 40)
    assert (row["n_neurons"], row["random_sets"], row["reason"]) == (4, N_SETS, "")
    for name in ("in_task_delta_nats", "off_task_delta_nats", "excess_nats", "kept_difference"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_planted_effects_are_read() -> None:
    random = np.random.default_rng(1)
    tasks = [0] * 40 + [1] * 40
    noise, sets = random.normal(0, 1, 80), random.normal(0, 1, (N_SETS, 80))
    here, there = np.array(tasks) == 0, np.array(tasks) == 1
    readings = [
        row_of(part_of(noise + 10 * here, sets, tasks))["reading"],
        row_of(part_of(noise + 10 * here + 5 * there, sets, tasks))["reading"],
        row_of(part_of(noise + 10, sets + 10, tasks))["reading"],
        row_of(part_of(noise, sets, tasks))["reading"],
    ]
    assert readings == [ONLY, MOST, ANY_NEURONS, NOTHING]


def test_neurons_like_random_ones_are_seldom_told_apart_from_them() -> None:
    """Sets differ, and documents do; the specialized set is one more random one."""
    found = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        tasks = [0] * 12 + [1] * 12
        levels, noise = random.normal(10, 3, (N_SETS + 1, 1)), random.normal(0, 4, (N_SETS + 1, 24))
        sets = levels + noise
        row = row_of(part_of(sets[0], sets[1:], tasks))
        found.append(row["excess_nats_low"] > 0 or row["excess_nats_high"] < 0)
    assert np.mean(found) <= 0.06


def test_where_everything_is_kept_nothing_differs_between_tasks() -> None:
    part = part_of(np.ones(6), np.ones((N_SETS, 6)), [0, 0, 0, 1, 1, 1], kept=[200] * 6)
    part["tasks"]["math"]["kept"] = [40] * 6
    row = row_of(part)
    assert row["kept_in_task"] == row["kept_off_task"] == row["others_kept_in_task"] == 1
    assert [row[f"kept_difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


def test_what_cannot_be_known_is_nan_and_says_why() -> None:
    none = row_of(part_of(None, np.zeros((0, 6)), [0, 0, 0, 1, 1, 1]))
    assert (none["reading"], none["in_task_tokens"]) == (NO_NEURON, 30)
    assert "prefers the task" in none["reason"]
    assert math.isnan(none["in_task_delta_nats"])
    assert math.isnan(none["kept_in_task"])
    few = row_of(part_of(np.ones(6), np.ones((1, 6)), [0, 0, 0, 1, 1, 1]))
    assert "too few other neurons" in few["reason"]
    assert few["in_task_delta_nats"] == pytest.approx(0.1)
    assert math.isnan(few["excess_nats"])
    single = row_of(part_of(np.ones(4), np.ones((N_SETS, 4)), [0, 1, 1, 1]))
    assert single["reason"] == "no interval from one document: math"
    broken = row_of(part_of(np.array([1, np.nan, 1, 1]), np.ones((N_SETS, 4)), [0, 0, 1, 1]))
    assert broken["reason"] == "a loss is not finite"
    alone = row_of(part_of(np.ones(4), np.ones((N_SETS, 4)), [0, 0, 0, 0]))
    assert alone["reason"] == "no token of another task is scored"
    assert [row["reading"] for row in (few, single, broken)] == [UNDECIDED] * 3


def test_rows_come_part_after_part() -> None:
    part = part_of(np.ones(4), np.ones((N_SETS, 4)), [0, 0, 1, 1])
    part["tasks"]["qa"] = part["tasks"]["math"]
    rows = list(rows_of([part, {**part, "keep": 0.5}], 0))
    assert [(row["k"], row["task"]) for row in rows] == [
        *((0.3, "math"), (0.3, "qa")),
        *((0.5, "math"), (0.5, "qa")),
    ]
