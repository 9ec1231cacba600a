from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.acts import statistics
from sdlms.acts.statistics import (
    TORCH_DTYPES,
    DocumentTables,
    Rule,
    as_float,
    check_finite,
    estimate_thresholds,
    in_parallel,
    is_finite,
    measure_file,
    parts_of,
    rule_of,
)
from sdlms.errors import UserError
from sdlms.storage.activations import Header, StoreDtype, create_activations, dataset_name
from sdlms.storage.counts import create_counts, read_counts
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows

KEY = ("mlp_act", 0)
WIDTH = 7
QUANTILE = Rule(fixed_threshold=False, rectify=True)


def rows_of(lengths: list[int], seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    return Rows(
        ids=np.zeros(sum(lengths), dtype=np.int32),
        mask=(generator.random(sum(lengths)) > 0.3).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(lengths))],
        document_tasks=["t"] * len(lengths),
    )


def stored_file(path: Path, rows: Rows, store_dtype: StoreDtype) -> torch.Tensor:
    """Write random activations; returns them as float32, rounded as they are stored."""
    generator = torch.Generator().manual_seed(1)
    acts = torch.randn(rows.n_tokens, WIDTH, generator=generator).to(TORCH_DTYPES[store_dtype])
    header = Header("m", "", {KEY: WIDTH}, {"mlp_act": store_dtype}, "gelu", False)
    create_activations(path, header, rows)
    bits = acts.view(torch.uint16) if store_dtype == "bfloat16" else acts
    with FlatWriter(path) as writer:
        writer.write(dataset_name(KEY), 0, bits.numpy())
    return acts.float()


@pytest.mark.parametrize("store_dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("buffer_bytes", [1, 600, 1 << 20])
def test_thresholds_are_the_sampled_quantiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_dtype: StoreDtype, buffer_bytes: int
) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_BUFFER_BYTES", buffer_bytes)
    monkeypatch.setattr(statistics, "SCAN_TOKENS", 17)
    rows = rows_of([20, 0, 33, 5, 41])
    acts = stored_file(tmp_path / "a.h5", rows, store_dtype)
    create_counts(tmp_path / "c.h5", {KEY: WIDTH}, rows, [0, 3, 4])
    with FlatWriter(tmp_path / "c.h5") as counts:
        estimate_thresholds(tmp_path / "a.h5", counts, {KEY: QUANTILE}, [0, 3, 4], 2)
    found = read_counts(tmp_path / "c.h5", f"{dataset_name(KEY)}/thresholds")
    document = np.repeat(np.arange(5), rows.lengths)
    chosen = np.isin(document, [0, 3, 4]) & (rows.mask == 1)
    expected = np.quantile(acts.numpy()[chosen], 0.9, axis=0, method="inverted_cdf")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("block_tokens", [1, 16, 4096])
def test_a_file_is_measured_as_brute_force_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_tokens: int
) -> None:
    monkeypatch.setattr(statistics, "SCAN_TOKENS", block_tokens)
    rows = rows_of([20, 0, 33, 5, 1])
    acts = stored_file(tmp_path / "a.h5", rows, "float16")
    create_counts(tmp_path / "c.h5", {KEY: WIDTH}, rows, [])
    with FlatWriter(tmp_path / "c.h5") as counts:
        estimate_thresholds(tmp_path / "a.h5", counts, {KEY: QUANTILE}, None, 2)
        measure_file(tmp_path / "a.h5", counts, rows, {KEY: QUANTILE}, 2)
    read = {
        name: read_counts(tmp_path / "c.h5", f"{dataset_name(KEY)}/{name}")
        for name in ("thresholds", "counts", "n_positive", "participation_ratio")
    }
    for document in range(5):
        own = slice(rows.offsets[document], rows.offsets[document + 1])
        kept = acts[own].numpy()[rows.mask[own] == 1]
        assert np.array_equal(read["counts"][document], (kept > read["thresholds"]).sum(axis=0))
        assert read["n_positive"][document] == (kept > 0).sum()
        positive = np.maximum(kept, 0).astype(np.float64)
        squares = (positive**2).sum(axis=1)
        ratios = positive.sum(axis=1) ** 2 / np.where(squares > 0, squares, 1)
        assert read["participation_ratio"][document] == pytest.approx(ratios.sum(), rel=1e-5)


def test_documents_may_come_in_any_order(tmp_path: Path) -> None:
    rows = rows_of([4, 3, 5, 2])
    acts = torch.randn(rows.n_tokens, WIDTH)
    rule, found = rule_of("mlp_act", "gelu", gated=False), []
    for order in ([0, 1, 2, 3], [3, 1, 2, 0]):
        create_counts(tmp_path / "c.h5", {KEY: WIDTH}, rows, [])
        with FlatWriter(tmp_path / "c.h5") as counts:
            estimate_thresholds(tmp_path / "none.h5", counts, {KEY: Rule(True, True)}, None, 1)
            pieces = [acts[rows.offsets[d] : rows.offsets[d + 1]] for d in order]
            thresholds = torch.zeros(WIDTH)
            DocumentTables(counts, rows).add(KEY, rule, order, torch.cat(pieces), thresholds)
        found.append((tmp_path / "c.h5").read_bytes())
    assert found[0] == found[1]


def test_a_wholly_masked_sample_is_one_clear_line(tmp_path: Path) -> None:
    rows = rows_of([3, 4])
    rows.mask[:] = 0
    stored_file(tmp_path / "a.h5", rows, "float16")
    create_counts(tmp_path / "c.h5", {KEY: WIDTH}, rows, [])
    with FlatWriter(tmp_path / "c.h5") as counts, pytest.raises(UserError, match="--skip-first"):
        estimate_thresholds(tmp_path / "a.h5", counts, {KEY: QUANTILE}, None, 2)


@given(st.floats(width=16), st.sampled_from(["float16", "float32", "bfloat16"]))
def test_finiteness_is_found_by_bits_as_by_value(value: float, store_dtype: StoreDtype) -> None:
    acts = torch.tensor([[0.0, value]]).to(TORCH_DTYPES[store_dtype])
    assert is_finite(acts) == bool(acts.isfinite().all())


def test_a_value_beyond_the_type_is_refused() -> None:
    with pytest.raises(UserError, match=r"resid_pre of layer 3, document abc: .*float16"):
        check_finite(torch.tensor([[7e4]]).half(), ("resid_pre", 3), "abc")


def test_bits_of_bfloat16_are_read_back() -> None:
    acts = torch.randn(3, 4).bfloat16()
    assert torch.equal(as_float(acts.view(torch.uint16).numpy()), acts.float())


@pytest.mark.parametrize(
    ("site", "activation", "gated", "fixed", "rectify"),
    [
        ("mlp_act", "relu", False, True, True),
        ("mlp_act", "gelu", False, False, True),
        ("mlp_act", "relu", True, False, False),
        ("mlp_act", "silu", True, False, False),
        ("resid_post", "relu", False, False, False),
        ("mlp_out", "relu", False, False, False),
    ],
)
def test_the_rule_follows_the_definitions(
    site: str, activation: str, gated: bool, fixed: bool, rectify: bool
) -> None:
    rule = rule_of(site, activation, gated=gated)
    assert (rule.fixed_threshold, rule.rectify) == (fixed, rectify)
    assert rule.name == ("zero" if fixed else "quantile_0.9")


@pytest.mark.parametrize("n", [1, 3, 4, 5, 1000])
def test_parts_cover_everything_once(n: int) -> None:
    parts = parts_of(n)
    assert [item for part in parts for item in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_calls_are_done_in_parallel_and_errors_come_out() -> None:
    seen: list[int] = []
    in_parallel(2, [partial(seen.append, number) for number in range(9)])
    assert sorted(seen) == list(range(9))

    def fail() -> None:
        raise UserError("layer 4")

    with pytest.raises(UserError, match="layer 4"):
        in_parallel(2, [fail])
