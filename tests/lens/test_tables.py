"""Rows of the tables: which there are, and that each holds its own numbers."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.lens.summary import readable_positions
from sdlms.lens.tables import (
    COLUMNS,
    TARGET_COLUMNS,
    lens_rows,
    target_rows,
    task_numbers,
)
from sdlms.lens.text_ends import last_positions
from sdlms.storage.lens_file import LensReader
from sdlms.storage.tables import Cell, write_table
from tests.lens.lens_files import STATES, rows_of, write_lens

TASKS = ["a", "b"]
ROWS = rows_of([9, 20, 30, 12, 1, 25], ["a", "b", "b", "a", "a", "b"])


def number(cell: Cell) -> float:
    assert isinstance(cell, float | int)
    return float(cell)


@pytest.fixture
def reader(tmp_path: Path) -> LensReader:
    write_lens(tmp_path / "lens.h5", ROWS, ["logit", "tuned"])
    return LensReader(tmp_path / "lens.h5")


def test_there_is_a_row_per_lens_state_and_task(reader: LensReader, tmp_path: Path) -> None:
    with reader:
        rows = list(lens_rows(reader, TASKS, 0))
    write_table(tmp_path / "a.csv", COLUMNS, rows)  # refuses other columns
    keys = [(row["lens"], row["site"], row["layer"], row["task"]) for row in rows]
    states = [*STATES, ("model", None)]
    assert keys == [
        (lens, *state, task)
        for lens in ("logit", "tuned")
        for state in states
        for task in [*TASKS, "all"]
    ]
    for row in rows:
        given = {name for name, cell in row.items() if cell is not None}
        of_model = {"decided_at", "decided_at_low", "decided_depth", "decided_depth_high"}
        assert of_model <= given if row["site"] == "model" else not of_model & given
        assert ("entropy_nats_low" in given) == (row["site"] != "model")


def test_each_row_has_its_own_means_and_chances(tmp_path: Path) -> None:
    held = write_lens(tmp_path / "lens.h5", ROWS)["logit"]
    with LensReader(tmp_path / "lens.h5") as reader:
        rows = list(lens_rows(reader, TASKS, 0))
    positions = readable_positions(ROWS)
    task_of = task_numbers(ROWS, TASKS)[np.searchsorted(ROWS.offsets, positions, "right") - 1]
    for row in rows:
        wanted = [n for n, task in enumerate(TASKS) if row["task"] in (task, "all")]
        own = positions[np.isin(task_of, wanted)]
        assert row["n_tokens"] == len(own)
        if row["site"] == "model":
            assert number(row["decided_at"]) == pytest.approx(held["decided_at"][own].mean())
            continue
        place = STATES.index((str(row["site"]), int(number(row["layer"]))))
        top, final = held["top_ids"][own, place, 0], held["top_ids"][own, -1, 0]
        following = ROWS.ids[own + 1]
        expected = {
            "entropy_nats": held["entropy_nats"][own, place].mean(dtype=np.float64),
            "loss_nats": -held["next_log_probability"][own, place].mean(dtype=np.float64),
            "accuracy": (top == following).mean(),
            "accuracy_chance": (top[:, None] == following).mean(),
            "agreement": (top == final).mean(),
            "agreement_chance": (top[:, None] == final).mean(),
        }
        for name, value in expected.items():
            assert number(row[name]) == pytest.approx(value), name


def test_targets_are_told_document_by_document_and_on_average(tmp_path: Path) -> None:
    held = write_lens(tmp_path / "lens.h5", ROWS)["logit"]
    with LensReader(tmp_path / "lens.h5") as reader:
        rows = list(target_rows(reader, TASKS, [f"end {n}" for n in range(6)], 0))
    write_table(tmp_path / "a.csv", TARGET_COLUMNS, rows)
    lasts = last_positions(ROWS)
    told = [row for row in rows if row["document"] != "mean"]
    documents = [n for n, last in enumerate(lasts) if last >= 0]
    assert len(told) == len(documents) * len(STATES) * 2
    for row in told:
        document = ROWS.document_ids.index(str(row["document"]))
        place = STATES.index((str(row["site"]), int(number(row["layer"]))))
        target = [1, 3].index(int(number(row["target_id"])))
        at = lasts[document], place, target
        assert row["token"] == lasts[document] - ROWS.offsets[document]
        assert row["rank"] == held["target_rank"][at]
        assert row["first_fraction"] == float(held["target_rank"][at] == 1)
        logs = float(held["target_log_probability"][at])
        assert number(row["log_probability_nats"]) == logs
        assert number(row["probability"]) == pytest.approx(np.exp(logs))
        assert row["task"] == ROWS.document_tasks[document]
        assert (row["document_number"], row["text_end"]) == (document, f"end {document}")
        assert row["probability_low"] is None
    for row in rows:
        if row["document"] == "mean":
            key = ("site", "layer", "target_id")
            own = [
                number(each["probability"])
                for each in told
                if all(each[name] == row[name] for name in key)
                and row["task"] in ("all", each["task"])
            ]
            assert number(row["probability"]) == pytest.approx(np.mean(own))
            assert row["reason"] == f"interval from {min(3, len(own))} documents"
