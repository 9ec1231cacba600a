import math
from typing import Any

import numpy as np

from sdlms.structure.firing import ALL
from sdlms.structure.tables import (
    COLUMNS,
    COMMUNITY_COLUMNS,
    CURVE_COLUMNS,
    UNIT_COLUMNS,
    community_rows,
    curve_row,
    layer_rows,
    rate_warning,
    unit_rows,
    warnings_of,
)

TASKS = ("math", "qa")
KEYS = {"layer": 3, "threshold": "zero", "control": "none"}


def specialized(level: float, low: float = 0.01, documents: int = 300) -> dict[str, dict[str, Any]]:
    """Rows of one layer whose adjusted SI is `level`, of `math` twice that."""
    own = {"SI_adjusted_low": low, "SI_adjusted_high": 1.0, "SI_reason": ""}
    own |= {"significant_fraction": 0.9, "firing_rate": 0.1}
    return {
        task: {"SI_adjusted": level * factor, "documents": documents, "tokens": 9000, **own}
        for task, factor in ((ALL, 1), ("math", 2), ("qa", 1))
    }


def test_enough_documents_and_tasks_need_no_warning() -> None:
    assert warnings_of(dict.fromkeys("abcdef", 200), dict.fromkeys("abcdef", 9000)) == {ALL: ""}


def test_few_documents_and_few_tasks_are_said_where_they_matter() -> None:
    found = warnings_of({"math": 199, "qa": 200}, {"math": 9000, "qa": 9000})
    assert found["math"] == "fewer than 200 documents (199)"
    assert "qa" not in found
    assert found[ALL] == ("fewer than 6 tasks (2); tasks with fewer than 200 documents: math")


def test_very_unequal_lengths_are_said() -> None:
    documents, tokens = dict.fromkeys("abcdef", 200), dict.fromkeys("abcdef", 2000)
    assert warnings_of(documents, tokens | {"b": 5000}) == {ALL: ""}
    (found,) = warnings_of(documents, tokens | {"b": 5002}).values()
    assert found.startswith("documents of b are 2.5 times as long as those of a: adjusted SI is")


def test_a_quantile_that_is_missed_by_a_fifth_is_said() -> None:
    assert rate_warning("quantile_0.9", [0.119, 0.081]) == ""
    assert rate_warning("zero", [0.9]) == rate_warning("fixed_0.9", [0.9]) == ""
    assert rate_warning("quantile_0.9", [math.nan]) == ""
    found = rate_warning("quantile_0.9", [0.013])
    assert found.startswith("units fire on 1.3 % of tokens, not on 10 %: many tokens share")
    found = rate_warning("quantile_0.9", [0.1, 0.027, 0.0134, 0.079])
    assert found.startswith("units fire on 1.3-7.9 % of tokens, not on 10 %:")


def test_the_row_of_all_tasks_has_every_warning() -> None:
    found = specialized(0.2, documents=199)
    found[ALL]["firing_rate"] = 0.05
    row, math_row, _ = layer_rows({**KEYS, "threshold": "quantile_0.9"}, found, {}, {}, {})
    said = str(row["warning"]).split("; ")
    assert [each.split()[0] for each in said] == ["fewer", "tasks", "units"]
    assert math_row["warning"] == "fewer than 200 documents (199)"


def test_a_row_has_every_column_and_the_heading_of_the_issue() -> None:
    rows = list(layer_rows(KEYS, specialized(0.2), {}, {}, {}))
    assert [row["task"] for row in rows] == [ALL, "math", "qa"]
    for row in rows:
        assert set(row) == set(COLUMNS)
        assert {name: row[name] for name in KEYS} == KEYS
    assert COLUMNS[:5] == ["layer", "task", "SI", "Q", "n_communities"]
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_each_control_has_columns_of_its_own() -> None:
    controls = {
        "permute-tokens": specialized(0.15),
        "reinit": specialized(0.05),
        "reinit-matched": specialized(0.07),
    }
    identity = {"math": {"SI_adjusted_permuted": 0.12, "token_identity_fraction": 0.3}}
    row, math_row, _ = layer_rows(KEYS, specialized(0.2), {}, controls, identity)
    assert (row["token_identity_fraction"], row["SI_adjusted_permuted"]) == (None, None)
    assert (math_row["token_identity_fraction"], math_row["SI_adjusted_permuted"]) == (0.3, 0.12)
    assert (math_row["SI_adjusted_reinit"], math_row["SI_adjusted_reinit_matched"]) == (0.1, 0.14)
    assert row["SI_adjusted_reinit_matched_high"] == math_row["SI_adjusted_reinit_high"] == 1.0
    assert row["significant_fraction_reinit_matched"] == row["significant_fraction_reinit"] == 0.9
    assert set(row) == set(math_row) == set(COLUMNS)


def test_without_controls_and_graph_their_cells_are_empty() -> None:
    row, *_ = layer_rows(KEYS, specialized(0.2), {}, {}, {})
    assert row["token_identity_fraction"] is None
    assert row["SI_adjusted_reinit"] is None
    assert row["Q"] is None


def test_the_graph_of_a_row_is_its_task_s() -> None:
    rows = list(layer_rows(KEYS, specialized(0.2), {ALL: {"Q": 0.3}, "qa": {"Q": 0.4}}, {}, {}))
    assert [row["Q"] for row in rows] == [0.3, None, 0.4]


def test_what_is_doubtful_of_the_graph_is_told_behind() -> None:
    graph = {task: {"Q": 0.3, "warning": "graph capped"} for task in (ALL, "qa")}
    graph["math"] = {"Q": 0.3, "warning": ""}
    row, math_row, qa = layer_rows(KEYS, specialized(0.2, documents=199), graph, {}, {})
    assert str(row["warning"]).endswith("; graph capped")
    assert math_row["warning"] == "fewer than 200 documents (199)"
    assert qa["warning"] == "fewer than 200 documents (199); graph capped"
    *_, qa = layer_rows(KEYS, specialized(0.2), graph, {}, {})
    assert qa["warning"] == "graph capped"


def test_units_and_communities_name_their_task() -> None:
    n_units = 3
    columns = {name: np.full(n_units, 0.5) for name in UNIT_COLUMNS[3:-1]}
    columns |= {"dead": np.array([0, 0, 1], dtype=bool), "rare": np.zeros(n_units, dtype=bool)}
    columns["preferred_task"] = np.array([1, 0, -1])
    thresholds = np.array([0.25, 0.5, 0.0], dtype=np.float32)
    rows = list(unit_rows(2, columns, thresholds, {1: 7}, TASKS))
    assert all(set(row) == set(UNIT_COLUMNS) for row in rows)
    assert [row["preferred_task"] for row in rows] == ["qa", "math", ""]
    assert [row["community"] for row in rows] == [None, 7, None]
    assert [row["dead"] for row in rows] == [0, 0, 1]
    found = list(community_rows(2, {2: 0, 0: 1, 1: 0}, columns["preferred_task"], TASKS))
    assert [(row["unit"], row["community"]) for row in found] == [(1, 0), (2, 0), (0, 1)]
    assert [row["preferred_task"] for row in found] == ["math", "", "qa"]
    assert all(set(row) == set(COMMUNITY_COLUMNS) for row in found)


def test_a_row_of_the_curve_has_its_columns() -> None:
    found = dict.fromkeys(CURVE_COLUMNS, 0.5)
    row = curve_row(1, "quantile:0.9", found | {"tokens": 9}, 0.1)
    assert set(row) == set(CURVE_COLUMNS)
    assert (row["layer"], row["threshold"], row["firing_rate"]) == (1, "quantile:0.9", 0.1)
