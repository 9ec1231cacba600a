import json
import math

import numpy as np
import pytest

from sdlms.explorer.shapes import cell_json, layer_of, number_of, pins_json, probability_of
from sdlms.lens.states import states_of

ROWS = {
    "top_ids": np.array([[[3, 4]]], np.int32),
    "top_probabilities": np.array([[[0.75, 0.25]]], np.float32),
    "entropy_nats": np.array([[0.5]], np.float32),
    "kl_to_final_nats": np.array([[0.0]], np.float32),
    "next_log_probability": np.array([[math.log(0.25)]], np.float32),
    "next_rank": np.array([[2]], np.int32),
}


def test_a_cell_says_what_the_row_says() -> None:
    cell = cell_json(ROWS, (0, 0), 4, lambda token_id: f"t{token_id}")
    assert [(each["text"], each["percent"], each["rank"]) for each in cell["top"]] == [
        ("t3", 75.0, 1),
        ("t4", 25.0, 2),
    ]
    assert cell["next"]["rank"] == 2
    assert cell["next"]["probability"] == pytest.approx(0.25)
    assert (cell["kl_nats"], cell["pins"]) == (0.0, [])


def test_what_follows_may_be_unknown() -> None:
    assert cell_json(ROWS, (0, 0), -1, str)["next"] is None


def test_numbers_that_json_lacks_become_null() -> None:
    broken = {name: np.full_like(rows, np.nan) for name, rows in ROWS.items() if rows.dtype == "f4"}
    cell = cell_json(ROWS | broken, (0, 0), 4, str)
    assert json.loads(json.dumps(cell, allow_nan=False))["entropy_nats"] is None
    assert cell["top"][0]["percent"] is None
    assert number_of(math.inf) is None


def test_probabilities_do_not_exceed_one() -> None:
    assert probability_of(float(np.nextafter(np.float32(1), np.float32(2)))) == 1


def test_layers_count_from_minus_one_the_embedding() -> None:
    assert [layer_of(state) for state in states_of(3, range(3))] == [-1, 0, 1, 2]


def test_pins_stand_in_the_order_of_the_question() -> None:
    logs, ranks = np.log(np.array([0.5, 0.125], np.float32)), np.array([1, 3], np.int32)
    found = pins_json([9, 8], logs, ranks)
    assert [(pin["token_id"], pin["rank"]) for pin in found] == [(9, 1), (8, 3)]
    assert [pin["probability"] for pin in found] == pytest.approx([0.5, 0.125])
