"""One forward writes everything; kill, resume and lack of memory are tested with the stage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from sdlms.acts.capturing import Capturing
from sdlms.acts.statistics import estimate_thresholds, rule_of
from sdlms.errors import UserError
from sdlms.storage.activations import ActivationsReader, Header, Rows
from sdlms.storage.counts import create_counts, read_counts
from sdlms.storage.flat import FlatWriter

LENGTHS = [7, 1, 30, 12, 12, 64]
KEYS = [("mlp_act", 1), ("resid_post", 1)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    return AutoModel.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def rows() -> Rows:
    generator = np.random.default_rng(0)
    return Rows(
        ids=generator.integers(1, 3072, sum(LENGTHS)).astype(np.int32),
        mask=np.ones(sum(LENGTHS), dtype=np.uint8),
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(LENGTHS))],
        document_tasks=["t"] * len(LENGTHS),
    )


def capturing(model: PreTrainedModel, scratch: Path, budget: int = 64) -> Capturing:
    header = Header(
        model="tiny",
        revision="",
        units={("mlp_act", 1): 64, ("resid_post", 1): 24},
        store_dtype={"mlp_act": "float32", "resid_post": "float32"},
        activation_function="gelu",
        gated=False,
    )
    return Capturing(model, header, 1, budget, scratch, on_halved=lambda _: None)


def test_stored_rows_are_the_models_own(model: PreTrainedModel, rows: Rows, tmp_path: Path) -> None:
    capturing(model, tmp_path).save(tmp_path / "a.h5", rows, "capture")
    with ActivationsReader(tmp_path / "a.h5") as reader:
        for first, last in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
            ids = torch.from_numpy(rows.ids[first:last]).long()[None]
            with torch.no_grad():
                expected = model(ids, output_hidden_states=True).hidden_states[2][0]
            found = torch.from_numpy(reader.read(("resid_post", 1), first, last))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_budget_and_padding_change_results_only_within_tolerance(
    model: PreTrainedModel, rows: Rows, tmp_path: Path, budget: int
) -> None:
    for name, tokens in (("one", 64), ("two", budget)):
        (tmp_path / name).mkdir()
        capturing(model, tmp_path / name, tokens).save(tmp_path / name / "a.h5", rows, "capture")
    with (
        ActivationsReader(tmp_path / "one/a.h5") as one,
        ActivationsReader(tmp_path / "two/a.h5") as two,
    ):
        for key in KEYS:
            a, b = (reader.read(key, 0, rows.n_tokens) for reader in (one, two))
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_streamed_statistics_equal_those_of_the_file(
    model: PreTrainedModel, rows: Rows, tmp_path: Path
) -> None:
    from sdlms.acts.statistics import measure_file

    capture = capturing(model, tmp_path)
    capture.save(tmp_path / "a.h5", rows, "capture")
    rules = {key: rule_of(key[0], "gelu", gated=False) for key in KEYS}
    found = {}
    for name in ("file", "stream"):
        path = tmp_path / f"{name}.h5"
        create_counts(path, capture.header.units, rows, [])
        with FlatWriter(path) as counts:
            estimate_thresholds(tmp_path / "a.h5", counts, rules, None, 1)
            if name == "file":
                measure_file(tmp_path / "a.h5", counts, rows, rules, 1)
            if name == "stream":
                capture.measure(counts, rows, rules)
        found[name] = path
    for site, layer in KEYS:
        for table in ("thresholds", "counts", "n_positive"):
            a, b = (read_counts(path, f"/{site}/layer_{layer}/{table}") for path in found.values())
            assert np.array_equal(a, b)
            assert np.any(a)
        a, b = (
            read_counts(path, f"/{site}/layer_{layer}/participation_ratio")
            for path in found.values()
        )
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_an_overflow_names_site_layer_and_document(
    model: PreTrainedModel, rows: Rows, tmp_path: Path
) -> None:
    capture = capturing(model, tmp_path)
    capture.header.store_dtype["mlp_act"] = "float16"
    with torch.no_grad():
        projection = model.layers[1].mlp.dense_h_to_4h
        projection.weight *= 1e6
    try:
        with pytest.raises(UserError, match=r"mlp_act of layer 1, document 0{15}\d: .* float16"):
            capture.save(tmp_path / "a.h5", rows, "capture")
    finally:
        with torch.no_grad():
            projection.weight /= 1e6
