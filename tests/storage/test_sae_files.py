import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from sdlms.errors import UserError
from sdlms.storage import sae_files
from sdlms.storage.sae_files import CONFIG, TENSORS, WEIGHTS, read_sae, write_sae
from tests.storage.sparsify_folders import sparsify_config, write_sparsify

D_IN, WIDTH = 4, 6
LENS, SPARSIFY = WEIGHTS["sae-lens"], WEIGHTS["sparsify"]


def random_tensors(architecture: str) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    shapes = {"W_enc": (D_IN, WIDTH), "W_dec": (WIDTH, D_IN), "b_dec": (D_IN,)}
    return {
        name: random.normal(size=shapes.get(name, (WIDTH,))).astype(np.float32)
        for name in TENSORS[architecture]
    }


def config_for(architecture: str, **changes: Any) -> dict[str, Any]:
    config = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": WIDTH,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "k": 2 if architecture == "topk" else None,
        "metadata": {"layer": 3},
    }
    return config | changes


def error_of(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_sae(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("architecture", TENSORS)
def test_what_is_written_is_read_again(tmp_path: Path, architecture: str) -> None:
    folder, tensors = tmp_path / "deep" / "sae", random_tensors(architecture)
    write_sae(folder, tensors, config_for(architecture))
    found, config, form = read_sae(folder)
    assert form == "sae-lens"
    assert config == config_for(architecture)
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, LENS]
    with safe_open(folder / LENS, framework="numpy") as file:
        assert file.metadata() is None


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = random_tensors("gated")
    backwards = {name: np.asfortranarray(tensors[name]) for name in reversed(tensors)}
    write_sae(tmp_path / "a", tensors, config_for("gated"))
    write_sae(tmp_path / "b", backwards, dict(reversed(config_for("gated").items())))
    for name in (CONFIG, LENS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_configuration_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sae(tmp_path, random_tensors("standard"), config_for("standard"))

    def fail(path: Path, _: bytes) -> None:
        assert path.name == LENS
        raise OSError("disk full")

    monkeypatch.setattr(sae_files, "write_atomically", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sae(tmp_path, random_tensors("standard"), config_for("standard"))
    assert "so no SAE" in error_of(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_never_written(tmp_path: Path, value: float) -> None:
    tensors = random_tensors("standard")
    tensors["b_enc"][1] = value
    with pytest.raises(ValueError, match="b_enc"):
        write_sae(tmp_path / "sae", tensors, config_for("standard"))
    assert not (tmp_path / "sae").exists()


def test_sparsify_comes_by_the_same_names(tmp_path: Path) -> None:
    encoder, bias, decoder, centre = write_sparsify(tmp_path, D_IN, WIDTH, 2)
    tensors, config, form = read_sae(tmp_path)
    assert form == "sparsify"
    assert (config["num_latents"], config["k"], config["activation"]) == (WIDTH, 2, "topk")
    np.testing.assert_array_equal(tensors["W_enc"], encoder.T)
    np.testing.assert_array_equal(tensors["b_enc"], bias)
    np.testing.assert_array_equal(tensors["W_dec"], decoder)
    np.testing.assert_array_equal(tensors["b_dec"], centre)
    assert tensors.keys() == {"W_enc", "b_enc", "W_dec", "b_dec"}


def test_sparsify_without_a_number_of_latents_and_without_an_activation(tmp_path: Path) -> None:
    write_sparsify(tmp_path, D_IN, 3 * D_IN, 2)
    config = sparsify_config(D_IN, 0, 2, "topk") | {"expansion_factor": 3}
    del config["activation"]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    _, found, _ = read_sae(tmp_path)
    assert (found["num_latents"], found["activation"]) == (3 * D_IN, "topk")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_come_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {n: torch.from_numpy(a).to(dtype) for n, a in random_tensors("jumprelu").items()}
    save_torch_file(tensors, tmp_path / LENS)
    (tmp_path / CONFIG).write_text(json.dumps(config_for("jumprelu")))
    found, _, _ = read_sae(tmp_path)
    for name, tensor in tensors.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], tensor.float().numpy())


def test_a_file_from_before_version_6(tmp_path: Path) -> None:
    save_file(
        random_tensors("topk") | {"scaling_factor": np.ones(WIDTH, np.float32)}, tmp_path / LENS
    )
    old = {
        "d_in": D_IN,
        "d_sae": WIDTH,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
        "hook_point": "blocks.3.hook_resid_post",
    }
    (tmp_path / CONFIG).write_text(json.dumps(old))
    tensors, config, _ = read_sae(tmp_path)
    assert tensors.keys() == set(TENSORS["topk"])
    assert config["architecture"] == "topk"
    assert config["k"] == 3
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == "none"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "no such folder" in error_of(tmp_path / "absent")
    assert "no cfg.json in it" in error_of(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    assert "not valid JSON" in error_of(tmp_path)
    (tmp_path / CONFIG).write_text("[]")
    assert "a JSON object" in error_of(tmp_path)
    (tmp_path / CONFIG).write_text('{"d_in": 4}')
    assert "neither sae-lens' format" in error_of(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config_for("standard")))
    assert f"{LENS}: there are no such weights" in error_of(tmp_path)
    (tmp_path / LENS).write_bytes(b"nothing")
    assert "damaged" in error_of(tmp_path)
    save_file({"W_enc": np.zeros((D_IN, WIDTH), np.float32)}, tmp_path / LENS)
    assert "lack W_dec, b_dec, b_enc" in error_of(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(config_for("standard")))
    tensors = random_tensors("standard")
    save_file(tensors | {"W_enc": tensors["W_dec"]}, tmp_path / LENS)
    assert "W_enc is [6, 4]; by cfg.json it is [4, 6]" in error_of(tmp_path)
    tensors["b_dec"][0] = np.nan
    save_file(tensors, tmp_path / LENS)
    assert "b_dec holds NaN or infinity" in error_of(tmp_path)
    save_file(random_tensors("standard") | {"W_skip": tensors["W_dec"]}, tmp_path / LENS)
    assert "hold W_skip" in error_of(tmp_path)
    save_file({"W_enc": np.zeros((D_IN, WIDTH), np.int64)}, tmp_path / LENS)
    assert "W_enc is I64" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config_for("transcoder"), "another activation than the one it reads. Known: standard"),
        (config_for("jumprelu_skip_transcoder"), "'jumprelu_skip_transcoder' is not read"),
        (config_for("matryoshka_batchtopk"), "save_inference_model"),
        (config_for("abstopk"), "may be negative"),
        (config_for("monosemantic"), "'monosemantic' is unknown. Known: standard, topk"),
        (config_for("standard", d_in=0), "d_in must be a whole number >= 1, got 0"),
        (config_for("standard", d_sae="6"), "d_sae must be a whole number >= 1, got '6'"),
        (config_for("topk", k=None), "k must be a whole number >= 1, got None"),
        (config_for("topk", k=7), "k = 7, but there are 6 latents"),
        (sparsify_config(4, 6, 4, "groupmax"), "6 latents do not split into k = 4"),
        (sparsify_config(4, 6, 2, "relu"), "activation 'relu' is unknown. Known: topk, groupmax"),
        (sparsify_config(4, 6, 7, "topk"), "k = 7, but there are 6 latents"),
        (sparsify_config(4, 6, 2, "topk") | {"transcode": True}, "with transcode is not read"),
        (sparsify_config(4, 6, 2, "topk") | {"skip_connection": True}, "adds a linear map"),
        (sparsify_config(4, 6, 2, "topk") | {"signed": True}, "may be negative"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert message in error_of(tmp_path)


def test_neither_torch_nor_sae_lens_is_needed() -> None:
    program = (
        "import sys, sdlms.storage.sae_files\n"
        "sys.exit(str({'torch', 'sae_lens'} & set(sys.modules) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_sae_lens_writes_the_same_names(tmp_path: Path) -> None:
    from sdlms.sae.lens_check import without_traces

    with without_traces():
        from sae_lens import StandardSAE, StandardSAEConfig
    StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=WIDTH)).save_model(tmp_path)
    tensors, config, _ = read_sae(tmp_path)
    assert config["architecture"] == "standard"
    assert np.array_equal(tensors["W_dec"], load_file(tmp_path / LENS)["W_dec"])
