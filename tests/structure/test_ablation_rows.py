"""The tables of an ablation, and what they say of specialized units."""

import json
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from sdlms.numerics.document_bootstrap import Estimate
from sdlms.storage.tables import write_table
from sdlms.structure.ablation_effects import Sums, effects_of
from sdlms.structure.ablation_rows import (
    ANY_TASK,
    ANY_UNITS,
    COLUMNS,
    CORRELATION,
    HELPS,
    LESS,
    MATRIX_COLUMNS,
    NO_UNIT,
    SPECIFIC,
    UNDECIDED,
    UNSPECIFIC,
    Row,
    Tables,
    reading_of,
)
from sdlms.structure.ablation_sets import TaskSets

UP, DOWN, ZERO = Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1), Estimate(0.0, -0.1, 0.1)
NOTHING, UNKNOWN = Estimate(0.0, 0.0, 0.0), Estimate(0.2, nan, nan)
TASKS = ("code", "maths", "prose")
FIRED = np.array([90, 70, 0, 0, 0, 60, 110])


ANYWHERE = (UP, ZERO, DOWN, UNKNOWN)


@pytest.mark.parametrize(
    ("delta", "excess", "expected"),
    [
        (UP, ZERO, ANY_UNITS),
        (UP, DOWN, LESS),
        (ZERO, UP, CORRELATION),
        (ZERO, ZERO, CORRELATION),
        (NOTHING, NOTHING, CORRELATION),
        (ZERO, DOWN, LESS),
        (DOWN, UP, HELPS),
        (DOWN, ZERO, ANY_UNITS),
        (DOWN, DOWN, HELPS),
        *((delta, UNKNOWN, UNDECIDED) for delta in ANYWHERE),
        *((UNKNOWN, excess, UNDECIDED) for excess in ANYWHERE),
    ],
)
def test_a_reading_follows_from_where_the_intervals_lie(
    delta: Estimate, excess: Estimate, expected: str
) -> None:
    assert {reading_of(delta, difference, excess) for difference in ANYWHERE} == {expected}


def test_units_that_matter_are_compared_with_other_tasks() -> None:
    found = [reading_of(UP, difference, UP) for difference in ANYWHERE]
    assert found == [SPECIFIC, ANY_TASK, UNSPECIFIC, UNDECIDED]


def test_a_change_of_the_loss_is_no_correlation_though_random_units_may_do_as_much() -> None:
    """Layer 3 of `sdlms-medium`, questions."""
    delta, excess = Estimate(0.0199, 0.0092, 0.0332), Estimate(0.0170, -0.0030, 0.0383)
    assert reading_of(delta, Estimate(0.0214, 0.0101, 0.0350), excess) == ANY_UNITS


def units(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def tables(n_documents: int = 60, tasks: tuple[int, ...] = (0, 1, 2)) -> Tables:
    """Unit 0 matters to code alone, unit 1 to nothing; prose has no unit."""
    places: dict[tuple[int, ...], int] = {(0,): 0, (1,): 1, (5,): 2, (6,): 3}
    random = np.random.default_rng(0)
    counts = random.integers(5, 20, size=n_documents)
    task = np.resize(tasks, n_documents)
    noise = 0.01 * random.normal(size=(4, n_documents)) * counts
    noise[0] += 0.5 * counts * (task == 0)
    sets = [
        TaskSets(units(0), [units(5), units(6)], ""),
        TaskSets(units(1), [units(5), units(6)], ""),
        TaskSets(units(), [], "no unit prefers it"),
    ]
    effects = effects_of(Sums(noise, counts, task), 3, 0)
    return Tables(2, TASKS, sets, FIRED, places, effects)


def test_each_task_has_a_row_for_its_units_and_one_for_random_ones(tmp_path: Path) -> None:
    rows = list(tables().rows())
    assert [(row["task"], row["selection"]) for row in rows] == [
        (task, selection) for task in TASKS for selection in ("specialized", "random")
    ]
    assert [row["reading"] for row in rows] == [SPECIFIC, "", CORRELATION, "", NO_UNIT, ""]
    assert [row["sets"] for row in rows] == [1, 2, 1, 2, 0, 0]
    assert [row["n_units"] for row in rows] == [1, 1, 1, 1, 0, 0]
    assert [row["reason"] for row in rows] == ["", "", "", "", *["no unit prefers it"] * 2]
    assert [row["fired_mean"] for row in rows[:4]] == [90, 85, 70, 85]
    assert all(isnan(row["fired_mean"]) for row in rows[4:])
    write_table(tmp_path / "a.csv", COLUMNS, rows)
    write_table(tmp_path / "m.csv", MATRIX_COLUMNS, tables().matrix())
    assert (tmp_path / "m.csv").read_text().count("\n") == 1 + 3 * 2 * 3


def numbers(row: Row) -> list[float]:
    return [value for name, value in row.items() if "_nats" in name]


def test_differences_and_excess_are_of_the_rows_themselves() -> None:
    rows = list(tables().rows())
    for specialized, random in zip(rows[:4:2], rows[1:4:2], strict=True):
        for row in (specialized, random):
            inside, outside = row["in_task_delta_nats"], row["off_task_delta_nats"]
            assert row["difference_nats"] == pytest.approx(inside - outside)
        excess = specialized["in_task_delta_nats"] - random["in_task_delta_nats"]
        assert specialized["excess_nats"] == pytest.approx(excess)
        assert isnan(random["excess_nats"])
        for name in ("in_task_delta_nats", "off_task_delta_nats", "difference_nats"):
            assert specialized[f"{name}_low"] < specialized[name] < specialized[f"{name}_high"]
    assert rows[0]["in_task_tokens"] == rows[2]["off_task_tokens"] - rows[4]["in_task_tokens"]


def test_the_diagonal_of_the_matrix_is_the_table() -> None:
    cells = {
        (row["ablated_task"], row["selection"], row["evaluated_task"]): row["delta_nats"]
        for row in tables().matrix()
    }
    for row in list(tables().rows())[:4]:
        inside = cells[row["task"], row["selection"], row["task"]]
        assert inside == row["in_task_delta_nats"]


def test_a_task_without_units_has_no_number() -> None:
    for row in list(tables().rows())[4:]:
        assert all(isnan(value) for value in numbers(row))
        assert row["in_task_tokens"] > 0


def test_nothing_that_was_ablated_has_no_number_at_all() -> None:
    sets = [TaskSets(units(), [], "none")] * 3
    nothing = Tables(0, TASKS, sets, FIRED, {}, None)
    for row in nothing.rows():
        assert isnan(row["random_reaching"]) and isnan(row["fired_mean"])
        assert all(isnan(value) for value in [*numbers(row), row["in_task_tokens"]])
        assert (row["n_units"], row["sets"], row["reason"]) == (0, 0, "none")
    assert all(isnan(row["delta_nats"]) for row in nothing.matrix())


def test_without_random_sets_it_is_undecided() -> None:
    known = tables()
    sets = [TaskSets(units(0), [], "too few"), *known.sets[1:]]
    rows = Tables(2, TASKS, sets, FIRED, known.places, known.effects).rows()
    specialized, random = list(rows)[:2]
    assert isnan(specialized["random_reaching"])
    assert (specialized["reading"], specialized["reason"]) == (UNDECIDED, "too few")
    assert specialized["in_task_delta_nats"] == pytest.approx(0.5, abs=0.01)
    assert isnan(specialized["excess_nats"])
    assert (random["sets"], isnan(random["in_task_delta_nats"])) == (0, True)


@pytest.mark.parametrize(
    ("n_documents", "tasks", "reason"),
    [
        (60, (0, 0, 0), "no token of another task is scored"),
        (60, (1, 2), "no token of the task is scored"),
        (5, (0, 0, 1, 1, 2), "no interval from one document: prose"),
    ],
)
def test_why_something_is_nan(n_documents: int, tasks: tuple[int, ...], reason: str) -> None:
    row = next(tables(n_documents, tasks).rows())
    assert (row["reason"], row["reading"]) == (reason, UNDECIDED)


def test_how_many_random_sets_do_no_less() -> None:
    """Of four sets one does more, one as much, one less; the fourth differs elsewhere alone."""
    per_document = np.array([[2.0, 1], [3, 0], [2, 9], [1, 0], [1.5, 0]])
    changes = np.repeat(per_document, 4, axis=1)
    tasks = np.repeat([0, 1], 4)
    places: dict[tuple[int, ...], int] = {(one,): one for one in range(5)}
    own = TaskSets(units(0), [units(one) for one in (1, 2, 3, 4)], "")
    effects = effects_of(Sums(changes, np.full(8, 7), tasks), 2, 0)
    known = Tables(0, TASKS[:2], [own, own], FIRED, places, effects)
    first, random, second, _ = known.rows()
    assert first["random_reaching"] == 2 / 4
    assert second["random_reaching"] == 1 / 4
    assert isnan(random["random_reaching"])
    assert effects.documents.tolist() == [4, 4]
    effects.changes[2, 0, 0] = np.nan
    assert isnan(next(known.rows())["random_reaching"])


def test_a_loss_that_is_not_finite_is_told() -> None:
    known = tables()
    assert known.effects is not None
    known.effects.changes[0, :, 1] = np.nan
    specialized, random = list(known.rows())[:2]
    assert (specialized["reason"], specialized["reading"]) == ("a loss is not finite", UNDECIDED)
    assert np.isfinite(specialized["in_task_delta_nats"])
    assert isnan(specialized["off_task_delta_nats"])
    assert not random["reason"]
    known.effects.changes[0, :, 1], known.effects.changes[2] = 0, np.nan
    specialized, random = list(known.rows())[:2]
    assert specialized["reason"] == random["reason"] == "a loss is not finite"
    assert isnan(specialized["excess_nats"])


def test_json_holds_it() -> None:
    found = {"rows": list(tables().rows()), "matrix": list(tables().matrix())}
    again = json.loads(json.dumps(found))
    assert json.dumps(again) == json.dumps(found)
