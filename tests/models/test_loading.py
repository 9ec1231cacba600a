import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.models.fresh import fresh_model, state_hash
from sdlms.models.loading import (
    ModelSource,
    check_buildable,
    find_model,
    load_base_model,
    load_causal_model,
    load_config,
    load_tokenizer,
    tokenizer_hashes,
    weight_hashes,
)
from sdlms.models.spreading import Spread, planned_modules
from sdlms.storage.files import sha256_of
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, random_model

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def copied(model: Path, folder: Path) -> ModelSource:
    shutil.copytree(model, folder)
    return ModelSource(str(folder), folder)


def hub_cache(model: Path, home: Path) -> None:
    """A model as the hub's cache lays it out: refs name a commit, snapshots link to blobs."""
    repository = home / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in model.iterdir():
        blob = repository / "blobs" / sha256_of(file)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    for name in ("main", "step1000"):
        reference = repository / "refs" / name
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(COMMIT)


def test_embedded_models_come_first() -> None:
    source = find_model("sdlms-medium", None)
    assert load_config(source).model_type == "gpt_neox"
    assert weight_hashes(source).keys() == {"model.safetensors"}
    assert load_tokenizer(source).is_fast


def test_a_folder_is_a_model(tiny_model: Path) -> None:
    source = find_model(str(tiny_model), None)
    model = load_base_model(source, torch.float32, CPU)
    assert not model.training
    assert type(model).__name__ == "GPTNeoXModel"
    stored = load_file(tiny_model / "model.safetensors")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, stored[f"gpt_neox.{name}"])
        assert not weight.requires_grad


def test_loading_says_nothing(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_base_model(find_model(str(tiny_model), None), torch.bfloat16, CPU)
    assert capfd.readouterr() == ("", "")


def test_a_hub_model_comes_from_the_cache_under_hf_home(tiny_model: Path, tmp_path: Path) -> None:
    """By no revision, a branch, a tag and a commit, in a process that has that HF_HOME."""
    hub_cache(tiny_model, tmp_path)
    revisions = [None, "main", "step1000", COMMIT]
    code = (
        "from sdlms.models.loading import *\n"
        f"for revision in {revisions}:\n"
        "    source = find_model('someone/tiny', revision)\n"
        "    print(source.commit, *weight_hashes(source).values(), *tokenizer_hashes(source))\n"
        "    load_tokenizer(source)\n"
        "    load_base_model(source, torch.float32, torch.device('cpu'))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    weights = sha256_of(tiny_model / "model.safetensors")
    found = [line.split() for line in result.stdout.splitlines()]
    expected = [COMMIT, weights, "tokenizer.json", "tokenizer_config.json"]
    assert found == [expected] * len(revisions)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdlms-medum", "Did you mean 'sdlms-medium'?"),
        ("./nowhere", "no folder that exists, and no hub id"),
        ("someone/absent", "cannot be reached and the cache does not hold it"),
        ("gpt2", "cannot be reached and the cache does not hold it"),
        ("someone/sdlms-small", "cannot be reached and the cache does not hold it"),
        ("some one/what?", "no hub id"),
        ("some--one/tiny", "the hub refuses"),
    ],
)
def test_an_unknown_model_is_one_clear_line(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        find_model(name, None)


def test_revisions_are_for_hub_models(tiny_model: Path) -> None:
    for name in ("sdlms-medium", str(tiny_model)):
        with pytest.raises(UserError, match="--revision is for hub models"):
            find_model(name, "main")


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        find_model(str(tmp_path), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read its config"),
        ('{"model_type": "no_such_family"}', "cannot read its config"),
        ("{}", "cannot read its config"),
        ("null", "cannot read its config"),
    ],
)
def test_a_broken_config_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(find_model(str(tmp_path), None))


def changed(model: Path, folder: Path, **changes: object) -> ModelSource:
    """A copy of a model with another config."""
    source = copied(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "48"}, "'hidden_size'.* expected int, got str"),
        ({"max_position_embeddings": None}, "'max_position_embeddings'.* got NoneType"),
        ({"num_attention_heads": 7}, "not divisible by the number of attention heads"),
        ({"num_attention_heads": 0}, "cannot read its config"),
    ],
)
def test_an_invalid_config_says_which_setting_and_why(
    tiny_model: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    source = changed(tiny_model, tmp_path / "m", **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_config(source)
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_be_built_is_found_without_its_weights(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = changed(tiny_model, tmp_path / "m", hidden_act="no_such")
    with pytest.raises(UserError, match="its config asks for 'no_such', which transformers"):
        check_buildable(source, load_config(source))
    (source.folder / "model.safetensors").unlink()
    sound = ModelSource("sound", tiny_model)
    check_buildable(sound, load_config(sound))
    assert capfd.readouterr() == ("", "")


def test_only_weights_that_are_read_are_hashed(tiny_model: Path, tmp_path: Path) -> None:
    source = copied(tiny_model, tmp_path / "m")
    expected = weight_hashes(source)
    (source.folder / "consolidated.safetensors").write_bytes(b"junk")
    assert weight_hashes(source) == expected
    model = load_base_model(source, torch.float32, CPU)
    (source.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors weights"):
        weight_hashes(source)
    model.save_pretrained(source.folder, max_shard_size="200KB")
    shards = {path.name for path in source.folder.glob("model-*.safetensors")}
    assert weight_hashes(source).keys() == shards
    assert len(shards) > 1
    (source.folder / min(shards)).unlink()
    with pytest.raises(UserError, match=f"its weights lack the file {min(shards)}"):
        weight_hashes(source)


def test_pickled_weights_are_not_read(tiny_model: Path, tmp_path: Path) -> None:
    source = copied(tiny_model, tmp_path / "m")
    weights = source.folder / "model.safetensors"
    torch.save(load_file(weights), source.folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors weights"):
        weight_hashes(source)


def test_broken_weights_are_one_clear_line(tiny_model: Path, tmp_path: Path) -> None:
    source = copied(tiny_model, tmp_path / "m")
    (source.folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot load its weights"):
        load_base_model(source, torch.float32, CPU)


def test_missing_weights_are_refused_not_invented(tiny_model: Path, tmp_path: Path) -> None:
    source = copied(tiny_model, tmp_path / "m")
    path = source.folder / "model.safetensors"
    weights = load_file(path)
    del weights["gpt_neox.layers.2.mlp.dense_4h_to_h.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.dense_4h_to_h\.weight"):
        load_base_model(source, torch.float32, CPU)


def test_a_missing_tokenizer_is_one_clear_line(tiny_model: Path, tmp_path: Path) -> None:
    source = copied(tiny_model, tmp_path / "m")
    for name in tokenizer_hashes(source):
        (source.folder / name).unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(source)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_weights_need_no_weights_file(
    tiny_model: Path, tmp_path: Path, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = load_base_model(find_model(str(tiny_model), None), dtype, CPU)
    folder = copied(tiny_model, tmp_path / "m").folder
    (folder / "model.safetensors").unlink()
    source = ModelSource("m", folder, reinit_seed=3)
    hashes = weight_hashes(source)
    model = load_base_model(source, dtype, CPU)
    assert hashes == weight_hashes(source)
    assert hashes.keys() == {"state"}
    expected = fresh_model(load_config(source), 3)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(dtype))
    # Loaded as the trained one is: what stays in float32 does so here too.
    kinds = [
        {name: (x.dtype, x.shape) for name, x in [*m.named_parameters(), *m.named_buffers()]}
        for m in (trained, model)
    ]
    assert kinds[0] == kinds[1]
    assert model.config._attn_implementation == trained.config._attn_implementation
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


def test_fresh_weights_follow_config_and_seed(tiny_model: Path, tmp_path: Path) -> None:
    source = replace(copied(tiny_model, tmp_path / "m"), reinit_seed=3)
    found = {weight_hashes(source)["state"], weight_hashes(replace(source, reinit_seed=4))["state"]}
    config = json.loads((source.folder / "config.json").read_text())
    (source.folder / "config.json").write_text(json.dumps({**config, "initializer_range": 0.1}))
    found.add(weight_hashes(source)["state"])
    assert len(found) == 3


def test_a_model_that_cannot_be_made_is_one_clear_line(tiny_model: Path, tmp_path: Path) -> None:
    source = replace(copied(tiny_model, tmp_path / "m"), reinit_seed=3)
    config = json.loads((source.folder / "config.json").read_text())
    (source.folder / "config.json").write_text(json.dumps({**config, "hidden_act": "no_such"}))
    with pytest.raises(UserError, match="its config asks for 'no_such', which transformers"):
        weight_hashes(source)


# With the head


def saved(name: str, folder: Path) -> ModelSource:
    """A tiny causal model on the disk."""
    random_model(name, AutoModelForCausalLM).save_pretrained(folder)
    return ModelSource(name, folder)


@EVERY_CAUSAL_CASE
@torch.no_grad()
def test_a_causal_model_is_the_base_model_with_its_head(name: str, tmp_path: Path) -> None:
    source = saved(name, tmp_path / "m")
    model = load_causal_model(source, torch.float32, CPU)
    base = load_base_model(source, torch.float32, CPU)
    assert state_hash(model.base_model) == state_hash(base)
    expected = random_model(name, AutoModelForCausalLM)
    assert torch.equal(model(INPUT_IDS).logits, expected(INPUT_IDS).logits)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@EVERY_CAUSAL_CASE
def test_a_fresh_causal_model_has_the_base_models_fresh_weights(name: str, tmp_path: Path) -> None:
    source = replace(saved(name, tmp_path / "m"), reinit_seed=3)
    (source.folder / "model.safetensors").unlink()
    before = torch.get_rng_state()
    model = load_causal_model(source, torch.float32, CPU)
    assert {"state": state_hash(model.base_model)} == weight_hashes(source)
    # Types are decided last, so that they change no number; nor does what was hashed before.
    halves = load_causal_model(source, torch.bfloat16, CPU).state_dict()
    assert all(torch.equal(halves[k], x.to(halves[k])) for k, x in model.state_dict().items())
    assert state_hash(load_base_model(source, torch.float32, CPU)) == state_hash(model.base_model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.get_output_embeddings().weight.std() > 0
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma3", "opt-projected"])
@pytest.mark.parametrize("reinit_seed", [None, 3])
@torch.no_grad()
def test_a_causal_model_may_be_spread(name: str, reinit_seed: int | None, tmp_path: Path) -> None:
    """By a map of its base model; here the machine's memory and its disk are the devices."""
    source = replace(saved(name, tmp_path / "m"), reinit_seed=reinit_seed)
    whole = load_causal_model(source, torch.float32, CPU)
    room = 4 * sum(p.numel() for p in whole.base_model.parameters()) * 2 // 3
    modules = planned_modules(load_config(source), torch.float32, {"cpu": room})
    assert set(modules.values()) == {"cpu", "disk"}
    for places in (modules, {"": "disk"}):
        spread = Spread(places, tmp_path / "offload")
        model = load_causal_model(source, torch.float32, CPU, spread)
        assert "meta" in {parameter.device.type for parameter in model.parameters()}
        for _ in range(2):
            assert torch.equal(model(INPUT_IDS).logits, whole(INPUT_IDS).logits)


def test_an_encoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    source = saved("bert", tmp_path / "m")
    (source.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="'bert' is an encoder: it predicts no next token") as found:
        load_causal_model(source, torch.float32, CPU)
    assert "\n" not in str(found.value)


def test_a_model_that_was_saved_without_its_head_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random_model("llama").save_pretrained(tmp_path / "m")
    source = ModelSource("m", tmp_path / "m")
    with pytest.raises(UserError, match=r"its weights lack 1 tensors, lm_head\.weight first"):
        load_causal_model(source, torch.float32, CPU)
    random_model("gpt2").save_pretrained(tmp_path / "tied")
    load_causal_model(ModelSource("tied", tmp_path / "tied"), torch.float32, CPU)
    assert capfd.readouterr().out == ""
