"""Models spread over the machine's memory and its disk: the hooks are those of several GPUs."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from sdlms.errors import UserError
from sdlms.models import spreading
from sdlms.models.architectures import SITES, architecture_of, blocks_of, n_layers
from sdlms.models.fresh import fresh_model
from sdlms.models.loading import ModelSource, load_base_model, load_config
from sdlms.models.recording import Key, recording
from sdlms.models.spreading import (
    ModuleDevices,
    Spread,
    check_device_map,
    cuda_devices,
    decided_modules,
    first_device,
    input_device,
    is_spread,
    planned_modules,
    read_memory,
    weights_bytes,
)
from tests.models.tiny_models import CASES, INPUT_IDS, config_of, padding_mask, random_model

CPU = torch.device("cpu")
GB = 10**9


def split(source: ModelSource) -> ModuleDevices:
    """A map that leaves about half the blocks no place but the disk."""
    config = load_config(source)
    model = fresh_model(config, 0)
    n_bytes = [4 * sum(p.numel() for p in block.parameters()) for block in blocks_of(model)]
    whole = 4 * sum(p.numel() for p in model.parameters())
    room = whole - sum(n_bytes) // 2 + max(n_bytes)
    return planned_modules(config, torch.float32, {"cpu": room})


@pytest.fixture(params=[name for name in CASES if "-" not in name])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ModelSource:
    """One model of each family, saved."""
    random_model(request.param).save_pretrained(tmp_path / "model")
    return ModelSource(request.param, tmp_path / "model")


def everything(model: PreTrainedModel) -> dict[Key, torch.Tensor]:
    """All sites of all layers, twice: the second forward must find what the first one left."""
    with recording(model, range(n_layers(model.config)), SITES) as recorded:
        recorded.run(INPUT_IDS, padding_mask(model))
        return recorded.run(INPUT_IDS, padding_mask(model))


def same(one: dict[Key, torch.Tensor], two: dict[Key, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_split_model_records_the_same_bits(source: ModelSource, tmp_path: Path) -> None:
    whole = load_base_model(source, torch.float32, CPU)
    modules = split(source)
    assert set(modules.values()) == {"cpu", "disk"}
    spread = load_base_model(source, torch.float32, CPU, Spread(modules, tmp_path / "offload"))
    assert is_spread(spread)
    assert "meta" in {parameter.device.type for parameter in spread.parameters()}
    assert same(everything(spread), everything(whole))
    with recording(spread, [0], ["mlp_act"]) as recorded:  # stops inside the first block
        first = recorded.run(INPUT_IDS, padding_mask(spread))
    assert torch.equal(first["mlp_act", 0], everything(whole)["mlp_act", 0])
    assert same(everything(spread), everything(whole))


def test_fresh_weights_may_be_split_too(source: ModelSource, tmp_path: Path) -> None:
    fresh = ModelSource(source.name, source.folder, reinit_seed=5)
    whole = load_base_model(fresh, torch.float32, CPU)
    offload = tmp_path / "offload"
    spread = load_base_model(fresh, torch.float32, CPU, Spread(split(source), offload))
    assert any(offload.iterdir())  # they lie in no other file
    assert same(everything(spread), everything(whole))


def test_a_model_that_fits_is_not_spread(source: ModelSource, tmp_path: Path) -> None:
    config = load_config(source)
    modules = decided_modules("auto", config, "bfloat16", "auto", CPU)[0]
    assert modules is not None
    if torch.cuda.is_available():
        return
    assert set(modules.values()) == {"cpu"}
    spread = load_base_model(source, torch.bfloat16, CPU, Spread(modules, tmp_path / "offload"))
    whole = load_base_model(source, torch.bfloat16, CPU)
    assert same(everything(spread), everything(whole))
    assert input_device(spread) == input_device(whole) == CPU
    assert cuda_devices(spread) == cuda_devices(whole) == read_memory(spread) == []
    assert not (tmp_path / "offload").exists()


def test_a_batch_of_an_encoder_keeps_its_mask(tmp_path: Path) -> None:
    """The mask must reach every block, wherever the block computes."""
    model = random_model("bert")
    assert not architecture_of("bert").causal
    model.save_pretrained(tmp_path / "model")
    source = ModelSource("bert", tmp_path / "model")
    spread = load_base_model(source, torch.float32, CPU, Spread(split(source), tmp_path / "off"))
    mask = torch.ones_like(INPUT_IDS)
    mask[:, 5:] = 0
    other_padding = torch.where(mask.bool(), INPUT_IDS, 7)
    with recording(spread, [3], ["resid_post"]) as recorded:
        one, two = (recorded.run(ids, mask) for ids in (INPUT_IDS, other_padding))
    assert torch.equal(one["resid_post", 3][:, :5], two["resid_post", 3][:, :5])


def test_loading_a_split_model_says_nothing(
    tmp_path: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = ModelSource("tiny", tiny_model)
    modules = split(source)
    capfd.readouterr()
    load_base_model(source, torch.float32, CPU, Spread(modules, tmp_path / "offload"))
    assert capfd.readouterr() == ("", "")


def test_planning_reads_no_weights_and_leaves_the_config_alone() -> None:
    config = config_of("llama")
    before = config.to_dict()
    modules = planned_modules(config, torch.bfloat16, {"cpu": 10**9})
    assert modules == {"": "cpu"}
    assert config.to_dict() == before
    assert decided_modules("none", config, "bfloat16", "auto", CPU) == (None, CPU)


@pytest.mark.parametrize(
    ("modules", "device"),
    [
        ({"": "cpu"}, "cpu"),
        ({"a": "cpu", "b": "disk"}, "cpu"),
        ({"": "mps"}, "mps"),
        ({"a": "cpu", "b": 3, "c": 1, "d": "disk"}, "cuda:1"),
        ({"a": 0}, "cuda:0"),
    ],
)
def test_a_map_is_known_by_the_first_gpu_it_uses(modules: ModuleDevices, device: str) -> None:
    assert first_device(modules) == torch.device(device)


@pytest.mark.parametrize("fits", [True, False])
def test_the_type_is_that_of_the_device_which_the_map_uses(
    monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """A GPU without room: what runs on the CPU is planned in the CPU's type."""
    planned = []

    def plan(config: object, dtype: torch.dtype, room: object) -> ModuleDevices:
        planned.append(dtype)
        return {"": 0 if fits else "cpu"}

    types = {"cuda": torch.bfloat16, "cpu": torch.float32}
    monkeypatch.setattr(spreading, "planned_modules", plan)
    monkeypatch.setattr(spreading, "dtype_of", lambda name, device: types[device.type])
    cuda = torch.device("cuda", 0)
    found = decided_modules("auto", config_of("llama"), "auto", "auto", cuda)
    assert found == (({"": 0}, cuda) if fits else ({"": "cpu"}, CPU))
    assert planned == ([torch.bfloat16] if fits else [torch.bfloat16, torch.float32])


def test_blocks_are_kept_whole(
    architecture_model: Callable[[str], Path],
) -> None:
    """A residual connection would lead to another device and back."""
    modules = split(ModelSource("llama", architecture_model("llama")))
    assert not [path for path in modules if path.startswith("layers.") and path.count(".") > 1]


def test_settings_that_cannot_work_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device_map("none", "cuda:1")
    check_device_map("auto", "auto")
    with pytest.raises(UserError, match="--device-map auto takes all devices, --device cpu names"):
        check_device_map("auto", "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sdlms\[large\]'"):
        check_device_map("auto", "auto")
    check_device_map("none", "auto")


def test_a_device_that_is_gone_is_one_clear_line(tmp_path: Path, tiny_model: Path) -> None:
    spread = Spread({"embed_in": 0, "layers": 99}, tmp_path)
    with pytest.raises(UserError, match=r"the run's model lay on cuda:\d+ too; this machine has"):
        load_base_model(ModelSource("tiny", tiny_model), torch.float32, CPU, spread)


def test_weights_leave_room_for_activations_and_what_stays_free() -> None:
    cuda = [(80 * GB, 79 * GB), (24 * GB, 23 * GB), (24 * GB, 1 * GB)]
    limits = weights_bytes(cuda, 100 * GB, "auto")
    assert limits == {
        0: pytest.approx(0.9 * (79 - 8) * GB, abs=1),
        1: pytest.approx(0.9 * (23 - 2.4) * GB, abs=1),
        2: 0,
        "cpu": 90 * GB,
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_and_the_cpu_share_a_model(source: ModelSource, tmp_path: Path) -> None:
    whole = load_base_model(source, torch.float32, torch.device("cuda", 0))
    places = {"cpu": 0, "disk": "cpu"}
    modules: ModuleDevices = {path: places[str(at)] for path, at in split(source).items()}
    spread = load_base_model(source, torch.float32, CPU, Spread(modules, tmp_path / "offload"))
    assert cuda_devices(spread) == [torch.device("cuda", 0)]
    assert len(read_memory(spread)) == 1
    mask = padding_mask(whole)
    with recording(whole, [0, 1], SITES) as one, recording(spread, [0, 1], SITES) as two:
        expected = one.run(INPUT_IDS.cuda(), None if mask is None else mask.cuda())
        found = two.run(INPUT_IDS, mask)
    for key, acts in expected.items():
        torch.testing.assert_close(found[key].cpu(), acts.cpu())
