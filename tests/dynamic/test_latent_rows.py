import math
from typing import Any

import numpy as np
import pytest

from sdlms.dynamic.latent_rows import COLUMNS, rows_of
from sdlms.dynamic.latent_sums import NAMES, by_name

TASKS = [0, 0, 0, 1, 1, 1]


def part_of(sums: dict[str, list[float]], tasks: list[int] = TASKS) -> dict[str, Any]:
    return {
        "rule": "post-norm",
        "keep": 0.3,
        "site": "mlp_out",
        "members": {"2": "l1_1_seed0"},
        "task_names": ["math", "qa"],
        "document_tasks": tasks,
        "layers": {"2": sums},
    }


def random_sums(n_documents: int = 6) -> dict[str, Any]:
    random = np.random.default_rng(0)
    sums = random.uniform(1, 2, (len(NAMES), n_documents))
    sums[:4] = random.integers([[5], [50], [60], [20]], [[9], [80], [90], [50]], (4, n_documents))
    return dict(by_name(sums))


def test_rows_are_ratios_of_sums() -> None:
    sums = random_sums()
    rows = list(rows_of([part_of(sums)], 0))
    assert [row["task"] for row in rows] == ["all", "math", "qa"]
    for row, own in zip(rows, (slice(0, 6), slice(0, 3), slice(3, 6)), strict=True):
        assert list(row) == COLUMNS
        total = {name: sum(values[own]) for name, values in sums.items()}
        assert row["l0_dense"] == pytest.approx(total["dense"] / total["tokens"])
        assert row["l0_gated"] == pytest.approx(total["gated"] / total["tokens"])
        assert row["kept_latents_fraction"] == pytest.approx(total["both"] / total["dense"])
        new = (total["gated"] - total["both"]) / total["gated"]
        assert row["new_latents_fraction"] == pytest.approx(new)
        fvu = total["dense_error"] / total["dense_energy"]
        gated = total["gated_error"] / total["gated_energy"]
        assert (row["fvu_dense"], row["fvu_gated"]) == pytest.approx((fvu, gated))
        assert row["fvu_difference"] == pytest.approx(gated - fvu)
        crossed = total["crossed_error"] / total["dense_energy"]
        assert row["fvu_dense_from_gated"] == pytest.approx(crossed)
        assert row["n_tokens"] == total["tokens"]
        for name in ("kept_latents_fraction", "fvu_difference"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row["reason"] == ""
        assert (row["layer"], row["member"], row["k"]) == (2, "l1_1_seed0", 0.3)


def test_unchanged_activations_have_a_difference_of_exactly_zero() -> None:
    sums = random_sums()
    for name in ("gated", "both"):
        sums[name] = sums["dense"]
    sums["gated_error"], sums["gated_energy"] = sums["dense_error"], sums["dense_energy"]
    for row in rows_of([part_of(sums)], 0):
        assert [row[f"fvu_difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
        assert [row[f"kept_latents_fraction{end}"] for end in ("", "_low", "_high")] == [1, 1, 1]
        assert row["new_latents_fraction"] == 0


def test_what_cannot_be_known_is_nan_and_says_why() -> None:
    silent = {**random_sums(), **{name: [0] * 6 for name in ("dense", "gated", "both")}}
    row = next(rows_of([part_of(silent)], 0))
    assert math.isnan(row["kept_latents_fraction"])
    assert "no latent fires in the dense model; no latent fires in the gated" in row["reason"]
    flat = {**random_sums(), "dense_energy": [0.0] * 6}
    row = next(rows_of([part_of(flat)], 0))
    assert math.isnan(row["fvu_difference"])
    assert row["reason"] == "activations do not vary"
    rows = list(rows_of([part_of(random_sums(), [0, 0, 0, 0, 0, 1])], 0))
    assert ["no interval" in row["reason"] for row in rows] == [True, False, True]
    unread = list(rows_of([part_of(random_sums(), [0] * 6)], 0))[2]
    assert (unread["task"], unread["reason"]) == ("qa", "no token is scored")
