"""One forward writes everything; kill, resume and lack of memory are tested with the stage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from sdlms.acts.capturing import Capturing
from sdlms.acts.statistics import estimate_thresholds, rule_of
from sdlms.errors import UserError
from sdlms.models.calibration import DeviceMemory
from sdlms.models.device import read_cuda_memory
from sdlms.models.loading import ModelSource, load_base_model
from sdlms.models.recording import Recording
from sdlms.models.spreading import Spread, is_spread
from sdlms.storage.activations import ActivationsReader, Header
from sdlms.storage.counts import create_counts, read_counts
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows

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


def test_a_budget_beyond_a_block_fills_its_batches(
    model: PreTrainedModel, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch never crosses a block, so that blocks must grow with the budget."""
    monkeypatch.setattr("sdlms.acts.capturing.BLOCK_TOKENS", 16)
    run, sizes = Recording.run, []

    def counted(self: Recording, ids: torch.Tensor, mask: torch.Tensor | None = None) -> object:
        sizes.append(ids.numel())
        return run(self, ids, mask)

    monkeypatch.setattr(Recording, "run", counted)
    budget = sum(LENGTHS) // 2
    capturing(model, tmp_path, budget).save(tmp_path / "a.h5", rows, "capture")
    assert max(sizes) > 0.7 * budget > 16


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


def test_the_budget_is_measured_with_the_longest_documents(
    model: PreTrainedModel, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a device on which a token takes a megabyte and others hold a gigabyte."""
    run, sizes = Recording.run, [0]

    def seen(self: Recording, ids: torch.Tensor, mask: torch.Tensor | None = None) -> object:
        sizes.append(ids.numel())
        assert ids.shape[1] == max(LENGTHS)
        return run(self, ids, mask)

    def read(one: PreTrainedModel) -> list[DeviceMemory]:
        assert one is model
        held = 10**9
        return [DeviceMemory(10**10, 10**10 - held, held, held + 10**6 * sizes[-1])]

    monkeypatch.setattr(Recording, "run", seen)
    capture = capturing(model, tmp_path, budget=16384)
    capture.calibrate(rows, "4GB", read)
    assert capture.budget == 4096  # 5000 tokens would fit
    capture.calibrate(rows, "8.9GB", read)
    assert capture.budget == 64
    capture.calibrate(rows, "1GB", read)
    assert capture.budget == 64  # never raised
    capture.calibrate(rows, "9.9GB", lambda _: [])  # nothing but the CPU
    assert capture.budget == 64


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_spread_model_gives_the_same_bytes(
    tiny_model: Path, rows: Rows, tmp_path: Path, place: str
) -> None:
    source, cpu = ModelSource("tiny", tiny_model), torch.device("cpu")
    whole = load_base_model(source, torch.float32, cpu)
    modules = {name: place for name, _ in whole.named_children()} | {"embed_in": "cpu"}
    spread = load_base_model(source, torch.float32, cpu, Spread(modules, tmp_path / "offload"))
    assert is_spread(spread) == (place == "disk")
    for name, model in (("whole", whole), ("spread", spread)):
        (tmp_path / name).mkdir()
        capturing(model, tmp_path / name).save(tmp_path / name / "a.h5", rows, "capture")
    found = [(tmp_path / name / "a.h5").read_bytes() for name in ("whole", "spread")]
    assert found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_measured_budget_leaves_the_memory_free(tiny_model: Path, tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    model = load_base_model(ModelSource("tiny", tiny_model), torch.float32, device)
    documents = 4000
    rows = Rows(
        ids=np.ones(96 * documents, dtype=np.int32),
        mask=np.ones(96 * documents, dtype=np.uint8),
        offsets=np.arange(0, 96 * documents + 1, 96),
        document_ids=[f"{number:016x}" for number in range(documents)],
        document_tasks=["t"] * documents,
    )
    free = read_cuda_memory(device).free_bytes
    room = 200 * 2**20
    capture = capturing(model, tmp_path, budget=10**9)
    capture.calibrate(rows, f"{(free - room) / 10**6:.6f}MB")
    assert 1 < capture.budget < 10**9
    before = read_cuda_memory(device)
    capture.save(tmp_path / "a.h5", rows, "capture")
    assert read_cuda_memory(device).peak_bytes - before.held_bytes <= room
