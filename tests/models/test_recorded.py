import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.models.fresh import state_hash
from sdlms.models.inputs import read_model
from sdlms.models.loading import load_base_model, load_causal_model
from sdlms.models.recorded import (
    load_recorded_causal_model,
    load_recorded_model,
    model_record,
    source_of,
)
from sdlms.models.spreading import Spread, is_spread
from sdlms.storage.cards import find_card

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def recorded(model: str, reinit_seed: int | None = None) -> dict[str, Any]:
    """A record as it is read from `meta.jsonl`."""
    record = model_record(*read_model(model, None, reinit_seed))
    found: dict[str, Any] = json.loads(json.dumps(record))
    return found


@pytest.mark.parametrize("reinit_seed", [None, 3])
@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2", "llama", "bert"])
def test_a_record_gives_the_same_weights_again(
    architecture_model: Callable[[str], Path], model_type: str, reinit_seed: int | None
) -> None:
    record = recorded(str(architecture_model(model_type)), reinit_seed)
    source, _ = read_model(str(architecture_model(model_type)), None, reinit_seed)
    expected = load_base_model(source, torch.float32, CPU)
    found = load_recorded_model(record, torch.float32, CPU)
    if model_type == "bert" and reinit_seed is None:
        found.pooler = expected.pooler = None  # a causal model saves none, and no site reads it
    assert state_hash(found) == state_hash(expected)
    if reinit_seed is not None:
        assert record["weights"] == {"state": state_hash(found)}
    assert load_recorded_model(record, torch.bfloat16, CPU).dtype == torch.bfloat16


def test_an_embedded_model_is_found_by_its_name() -> None:
    record = recorded("sdlms-medium")
    assert record["folder"] is None
    assert source_of(record) == read_model("sdlms-medium", None)[0]


@pytest.mark.parametrize("name", ["sdlms-small", "sdlms-medium", "sdlms-large"])
def test_parameters_of_embedded_models_are_those_of_their_cards(name: str) -> None:
    assert recorded(name)["n_parameters"] == find_card(name).parameters


@pytest.mark.parametrize("reinit_seed", [None, 3])
@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2", "llama", "opt"])
def test_parameters_are_counted_as_transformers_counts_them(
    architecture_model: Callable[[str], Path], model_type: str, reinit_seed: int | None
) -> None:
    """With the head; gpt2 ties it to the embedding, and tied numbers count once."""
    folder = architecture_model(model_type)
    expected = AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert recorded(str(folder), reinit_seed)["n_parameters"] == expected
    base = AutoModel.from_pretrained(folder).num_parameters()
    assert (base == expected) == (model_type in ("gpt2", "opt"))


def test_an_encoder_counts_without_a_head(architecture_model: Callable[[str], Path]) -> None:
    folder = architecture_model("bert")
    expected = AutoModel.from_pretrained(folder).num_parameters()
    assert recorded(str(folder))["n_parameters"] == expected


def test_a_folder_is_found_from_another_working_directory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    record = recorded("mine")
    assert record["name"] == "mine"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source_of(record).folder == tmp_path / "mine"
    shutil.rmtree(tmp_path / "mine")
    with pytest.raises(UserError, match=r"its folder .*mine is gone\. Restore it"):
        source_of(record)


def test_a_record_of_an_earlier_version_is_read(tiny_model: Path) -> None:
    record = recorded(str(tiny_model))
    earlier = {key: value for key, value in record.items() if key not in ("folder", "reinit_seed")}
    assert source_of(earlier).folder == tiny_model


def test_a_hub_model_is_found_by_its_commit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever its branch points by now, and whatever folder bears its name."""
    repository = tmp_path / "cache/models--someone--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / COMMIT)
    (tmp_path / "someone/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    record = {
        **recorded(str(tiny_model)),
        "name": "someone/tiny",
        "folder": None,
        "revision": "step1000",
        "commit": COMMIT,
    }
    source = source_of(record)
    assert (source.name, source.revision, source.commit) == ("someone/tiny", "step1000", COMMIT)
    assert source.folder == repository / "snapshots" / COMMIT
    load_recorded_model(record, torch.float32, CPU)


@pytest.mark.parametrize("reinit_seed", [None, 3])
def test_a_changed_config_is_refused(
    tiny_model: Path, tmp_path: Path, reinit_seed: int | None
) -> None:
    shutil.copytree(tiny_model, tmp_path / "mine")
    record = recorded(str(tmp_path / "mine"), reinit_seed)
    config = json.loads((tmp_path / "mine/config.json").read_text())
    (tmp_path / "mine/config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    with pytest.raises(UserError, match=r"config\.json in .*mine changed since the run"):
        source_of(record)


def test_changed_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "mine")
    record = recorded(str(tmp_path / "mine"))
    weights = tmp_path / "mine/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    source_of(record)  # which does not read them
    with pytest.raises(UserError, match=r"model\.safetensors in .*mine changed since the run"):
        load_recorded_model(record, torch.float32, CPU)


def test_fresh_weights_that_come_out_otherwise_are_refused(tiny_model: Path) -> None:
    """As under another torch; the weights of the trained model do not matter."""
    record = recorded(str(tiny_model), 3)
    other = {**record, "weights": {"state": "0" * 64}}
    message = r"seed 3 gives other fresh weights here than in the run\. Use the run's versions"
    with pytest.raises(UserError, match=message) as raised:
        load_recorded_model(other, torch.float32, CPU)
    assert "\n" not in str(raised.value)
    assert torch.__version__ in str(raised.value)
    load_recorded_model(record, torch.float32, CPU)


def test_a_recorded_model_may_be_spread(tiny_model: Path, tmp_path: Path) -> None:
    record = recorded(str(tiny_model), 3)
    spread = Spread({"": "disk"}, tmp_path / "offload")
    assert is_spread(load_recorded_model(record, torch.float32, CPU, spread))
    assert list((tmp_path / "offload").iterdir())


@pytest.mark.parametrize("reinit_seed", [None, 3])
@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2", "llama"])
def test_a_record_gives_the_same_model_with_its_head(
    architecture_model: Callable[[str], Path], model_type: str, reinit_seed: int | None
) -> None:
    record = recorded(str(architecture_model(model_type)), reinit_seed)
    source, _ = read_model(str(architecture_model(model_type)), None, reinit_seed)
    found = load_recorded_causal_model(record, torch.float32, CPU)
    assert state_hash(found) == state_hash(load_causal_model(source, torch.float32, CPU))
    base = load_recorded_model(record, torch.float32, CPU)
    assert state_hash(found.base_model) == state_hash(base)


def test_a_causal_model_is_checked_as_the_base_model_is(
    architecture_model: Callable[[str], Path], tiny_model: Path, tmp_path: Path
) -> None:
    record = recorded(str(tiny_model))
    other = {**record, "weights": {"model.safetensors": "0" * 64}}
    with pytest.raises(UserError, match=r"model\.safetensors in .* changed since the run"):
        load_recorded_causal_model(other, torch.float32, CPU)
    other = {**recorded(str(tiny_model), 3), "weights": {"state": "0" * 64}}
    with pytest.raises(UserError, match="seed 3 gives other fresh weights"):
        load_recorded_causal_model(other, torch.float32, CPU)
    shutil.copytree(architecture_model("bert"), tmp_path / "bert")
    record = recorded(str(tmp_path / "bert"))
    (tmp_path / "bert/model.safetensors").unlink()
    with pytest.raises(UserError, match="is an encoder"):
        load_recorded_causal_model(record, torch.float32, CPU)
