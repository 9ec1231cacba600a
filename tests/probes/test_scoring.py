"""Rows of the tables, and the lines that sum them up."""

import math

import numpy as np
import pytest

from sdlms.probes.scoring import (
    COLUMNS,
    PREDICTION_COLUMNS,
    Judged,
    best_lines,
    metrics_row,
    prediction_rows,
)


def judged(n: int = 40, **changes: object) -> Judged:
    generator = np.random.default_rng(n)
    fields: dict[str, object] = {
        "layer": 3,
        "kind": "mlp",
        "seed": 7,
        "label": "x",
        "n_train": 99,
        "converged": True,
        "probabilities": generator.random(n).astype(np.float32),
        "targets": np.arange(n) % 2 == 0,
        "documents": np.arange(n) // 4,
    }
    return Judged(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_row_has_every_column_and_says_whose_it_is() -> None:
    row = metrics_row(judged(converged=False))
    assert list(row) == COLUMNS
    assert [row[name] for name in ("layer", "kind", "seed", "label")] == [3, "mlp", 7, "x"]
    assert (row["n_train"], row["n_test"], row["converged"]) == (99, 40, "no")
    assert metrics_row(judged())["converged"] == "yes"
    low, value, high = (float(row[name] or 0) for name in ("auroc_low", "auroc", "auroc_high"))
    assert low < value < high


def test_the_interval_is_over_documents() -> None:
    """Tokens that agree within their document carry less than as many that do not."""
    n = 80
    documents = np.arange(n) // 20
    targets = documents % 2 == 0
    noise = np.random.default_rng(0).random(n).astype(np.float32) * 0.1
    scores = (documents / 8 + noise).astype(np.float32)
    widths = []
    for groups in (documents, np.arange(n)):
        row = metrics_row(judged(n, probabilities=scores, targets=targets, documents=groups))
        widths.append(float(row["auroc_high"] or 0) - float(row["auroc_low"] or 0))
    assert widths[0] > 2 * widths[1]


def test_one_class_alone_has_no_metrics() -> None:
    row = metrics_row(judged(targets=np.zeros(40, dtype=bool)))
    assert all(math.isnan(float(row[name] or 0)) for name in COLUMNS[6:-1])


def test_probabilities_come_back_from_their_digits() -> None:
    values = np.array([0, 1, 0.1, 1 / 3, 1e-30, 1 - 2**-24], dtype=np.float32)
    one = judged(6, probabilities=values, documents=np.array([2, 0, 0, 1, 1, 1]))
    rows = list(prediction_rows(one, ["a", "b", "c"], np.arange(6)))
    assert [np.float32(row["probability"]) for row in rows] == values.tolist()
    assert [row["document_id"] for row in rows] == ["c", "a", "a", "b", "b", "b"]
    assert [row["token"] for row in rows] == list(range(6))
    assert [row["target"] for row in rows] == [1, 0, 1, 0, 1, 0]
    assert set(rows[0]) == set(PREDICTION_COLUMNS)
    assert all(row["token"] is None for row in prediction_rows(one, ["a", "b", "c"], None))


def rows_of(*values: tuple[str, int, float]) -> list[dict[str, object]]:
    return [{"kind": kind, "layer": layer, "auroc": value} for kind, layer, value in values]


def test_the_best_layer_of_each_kind_is_named() -> None:
    rows = rows_of(
        ("mlp", 1, 0.6), ("mlp", 1, 0.8), ("mlp", 2, 0.72), ("logistic", 2, 0.9),
        ("shuffled_labels", 1, 0.4), ("shuffled_labels", 2, 0.8),
    )  # fmt: skip
    assert list(best_lines(rows)) == [  # type: ignore[arg-type]
        "mlp: AUROC 0.720 at layer 2, its best",
        "logistic: AUROC 0.900 at layer 2, its best",
        "shuffled_labels (a control): AUROC 0.600 over all layers",
    ]


@pytest.mark.parametrize("kind", ["mlp", "random_direction"])
def test_an_auroc_of_zero_is_a_number_and_nan_is_none(kind: str) -> None:
    (line,) = best_lines(rows_of((kind, 1, 0.0), (kind, 1, 1.0), (kind, 1, math.nan)))  # type: ignore[arg-type]
    assert "AUROC 0.500" in line
    assert list(best_lines(rows_of((kind, 1, math.nan)))) == []  # type: ignore[arg-type]
