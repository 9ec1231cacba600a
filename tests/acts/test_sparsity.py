import math
from pathlib import Path

import numpy as np
import pytest

from sdlms.acts.sparsity import COLUMNS, sparsity_rows
from sdlms.acts.statistics import rule_of
from sdlms.storage.counts import create_counts
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows
from sdlms.storage.tables import read_table, write_table

KEYS = {("mlp_act", 2): 4, ("resid_post", 0): 4}


@pytest.fixture
def counts_file(tmp_path: Path) -> Path:
    """Documents of 2, 3 and 0 mask-1 tokens in tasks a, a, b."""
    rows = Rows(
        ids=np.zeros(5, dtype=np.int32),
        mask=np.ones(5, dtype=np.uint8),
        offsets=np.array([0, 2, 5, 5], dtype=np.int64),
        document_ids=["x", "y", "z"],
        document_tasks=["a", "a", "b"],
    )
    create_counts(tmp_path / "counts.h5", KEYS, rows, [])
    with FlatWriter(tmp_path / "counts.h5") as writer:
        for site, layer in KEYS:
            name = f"/{site}/layer_{layer}"
            table = np.array([[0, 2, 1, 0], [0, 3, 1, 1], [0, 0, 0, 0]], dtype=np.uint32)
            writer.write(f"{name}/counts", 0, table)
            writer.write(f"{name}/n_positive", 0, np.array([4, 9, 0]))
            writer.write(f"{name}/participation_ratio", 0, np.array([3.0, 4.5, 0.0]))
    return tmp_path / "counts.h5"


def test_rows_follow_the_definitions(counts_file: Path) -> None:
    rules = {key: rule_of(key[0], "gelu", gated=False) for key in KEYS}
    rows = list(sparsity_rows(counts_file, rules, ["a", "b"]))
    found = {(row["layer"], row["task"]): row for row in rows}
    assert list(found) == [(0, "a"), (0, "b"), (2, "a"), (2, "b")]
    row = found[2, "a"]
    assert set(row) == set(COLUMNS)
    assert (row["n_documents"], row["n_tokens"], row["n_units"]) == (2, 5, 4)
    assert row["activation_fraction"] == pytest.approx(13 / 5 / 4)
    assert row["participation_ratio"] == pytest.approx(7.5 / 5)
    assert row["participation_ratio_se"] == pytest.approx(0.0)
    assert row["firing_rate"] == pytest.approx(8 / 5 / 4)
    assert row["firing_rate_q50"] == pytest.approx(0.3)  # rates 0, 1, 0.4, 0.2
    assert row["dead_fraction"] == 0.25
    assert row["always_on_fraction"] == 0.25


def test_residual_like_sites_have_no_activation_fraction(counts_file: Path) -> None:
    rules = {("resid_post", 0): rule_of("resid_post", "gelu", gated=False)}
    row = next(sparsity_rows(counts_file, rules, ["a"]))
    assert math.isnan(float(row["activation_fraction"] or 0))
    assert row["firing_rate"] == pytest.approx(8 / 5 / 4)


def test_a_task_without_tokens_is_nan_not_zero(counts_file: Path, tmp_path: Path) -> None:
    rules = {("mlp_act", 2): rule_of("mlp_act", "gelu", gated=False)}
    write_table(tmp_path / "s.csv", COLUMNS, sparsity_rows(counts_file, rules, ["b"]))
    (row,) = read_table(tmp_path / "s.csv")
    assert row["n_tokens"] == "0"
    for column in ("activation_fraction", "participation_ratio", "firing_rate", "dead_fraction"):
        assert row[column] == "nan"
