"""Sparse autoencoders as folders: written as sae-lens does, read also as EleutherAI sparsify does.

Both hold a `cfg.json`; the weights are `sae_weights.safetensors` (sae-lens) or `sae.safetensors`
(sparsify). Neither library is needed for it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from sdlms.errors import UserError
from sdlms.storage.files import sync, write_atomically

Format = Literal["sae-lens", "sparsify"]
CONFIG = "cfg.json"
WEIGHTS: dict[Format, str] = {
    "sae-lens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
}
# What each architecture is made of, by sae-lens' names.
TENSORS: dict[str, tuple[str, ...]] = {
    "standard": ("W_dec", "W_enc", "b_dec", "b_enc"),
    "topk": ("W_dec", "W_enc", "b_dec", "b_enc"),
    "jumprelu": ("W_dec", "W_enc", "b_dec", "b_enc", "threshold"),
    "gated": ("W_dec", "W_enc", "b_dec", "b_gate", "b_mag", "r_mag"),
}
# What else sae-lens knows, and why it is not read.
REFUSED = {
    "abstopk": "its latents may be negative",
    "batchtopk": "it is a checkpoint of a training; sae-lens' save_inference_model writes the SAE",
    "matching_pursuit": "it has no encoder",
    "temporal": "it looks at whole texts, not at single tokens",
}
REFUSED["matryoshka_batchtopk"] = REFUSED["batchtopk"]
TRANSCODER = "it reconstructs another activation than the one it reads"
# sparsify's names; its encoder lies the other way round.
SPARSIFY_NAMES = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "W_dec": "W_dec",
    "b_dec": "b_dec",
}
SPARSIFY_ACTIVATIONS = ("topk", "groupmax")
SPARSIFY_REFUSED = {
    "transcode": TRANSCODER,
    "skip_connection": "it adds a linear map of its input",
    "embed_skip": "it adds a map of the embedding",
    "gram_lookup": "it adds a table of n-grams",
    "signed": REFUSED["abstopk"],
}
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def write_sae(
    folder: Path, tensors: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any]
) -> None:
    """Write an SAE in sae-lens' format; equal input gives equal bytes.

    `cfg.json` comes last: a folder that holds one is whole.

    Args:
        folder: made if need be; an SAE that it holds is replaced.
        tensors: by sae-lens' names.
        config: what `cfg.json` says.

    Raises:
        ValueError: a tensor is not float32, or not finite.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"{name} of {folder} is {tensor.dtype}, or not finite")
    text = json.dumps(dict(config), indent=2, sort_keys=True, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    sync(folder)
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_atomically(folder / WEIGHTS["sae-lens"], save(contiguous))
    write_atomically(folder / CONFIG, f"{text}\n".encode())


def read_sae(folder: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any], Format]:
    """The tensors, the configuration and the format of an SAE on disk.

    Returns:
        float32 tensors by sae-lens' names, finite and of the right shapes, whatever the format:
        `W_enc [unit, latent]`, `W_dec [latent, unit]`, `b_dec [unit]`, all others `[latent]`.
        The configuration is that of the file, with what older versions left out: sae-lens'
        `architecture`, `k`, `apply_b_dec_to_input` and `normalize_activations`; sparsify's
        `num_latents` and `activation`.

    Raises:
        UserError: the folder or a file is missing or damaged, does not fit together, or holds
            something else than an autoencoder of single tokens.
    """
    raw = read_sae_config(folder)
    if "d_sae" in raw or "architecture" in raw:
        config, architecture = _lens_config(folder, raw)
        weights = _read_weights(folder / WEIGHTS["sae-lens"])
        tensors = _without_unit_scaling(weights)
        width = config["d_sae"]
        _check(folder, tensors, TENSORS[architecture], (config["d_in"], width))
        return tensors, config, "sae-lens"
    if "k" in raw and {"expansion_factor", "num_latents"} & set(raw):
        config = _sparsify_config(folder, raw)
        weights = _read_weights(folder / WEIGHTS["sparsify"])
        tensors = {SPARSIFY_NAMES.get(name, name): weights[name] for name in weights}
        if "encoder.weight" in weights:
            tensors["W_enc"] = np.ascontiguousarray(weights["encoder.weight"].T)
        _check(folder, tensors, TENSORS["topk"], (config["d_in"], config["num_latents"]))
        return tensors, config, "sparsify"
    raise UserError(
        f"{folder / CONFIG}: neither sae-lens' format (architecture, d_in, d_sae) nor "
        "EleutherAI sparsify's (d_in, k, expansion_factor or num_latents)."
    )


def read_sae_config(folder: Path) -> dict[str, Any]:
    """What `cfg.json` says, of either format.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give the folder of an SAE.")
    if not path.is_file():
        raise UserError(f"{folder}: no {CONFIG} in it, so no SAE. Give the folder that holds one.")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}).") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the configuration of an SAE (a JSON object).")
    return config


def _lens_config(folder: Path, raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """sae-lens' configuration, of version 6 or before, and its architecture."""
    kwargs = raw.get("activation_fn_kwargs") or {}
    activation = raw.get("activation_fn", raw.get("activation_fn_str"))  # before version 6
    architecture = str(raw.get("architecture", "standard"))
    if activation == "topk" and "k" in kwargs:
        architecture = "topk"
    if architecture not in TENSORS:
        reason = TRANSCODER if "transcoder" in architecture else REFUSED.get(architecture)
        raise UserError(
            f"{folder / CONFIG}: architecture '{architecture}' is "
            f"{f'not read: {reason}' if reason else 'unknown'}. Known: {', '.join(TENSORS)}."
        )
    filled = {"apply_b_dec_to_input": True, "k": kwargs.get("k"), "reshape_activations": "none"}
    config = {**filled, **raw, "architecture": architecture}
    if not config.get("normalize_activations"):  # before version 6 also false or null
        config["normalize_activations"] = "none"
    _whole_numbers(folder, config, ("d_in", "d_sae"))
    if architecture == "topk":
        _check_k(folder, config, config["d_sae"])
    return config, architecture


def _sparsify_config(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """What sparsify says, with the width written out."""
    for key, reason in SPARSIFY_REFUSED.items():
        if raw.get(key):
            raise UserError(f"{folder / CONFIG}: a sparse coder with {key} is not read: {reason}.")
    config = {"activation": "topk", **raw}
    _whole_numbers(folder, config, ("d_in",))
    if not config.get("num_latents"):  # 0 there means: by the factor
        _whole_numbers(folder, config, ("expansion_factor",))
        config["num_latents"] = config["d_in"] * config["expansion_factor"]
    _whole_numbers(folder, config, ("num_latents",))
    if config["activation"] not in SPARSIFY_ACTIVATIONS:
        raise UserError(
            f"{folder / CONFIG}: activation '{config['activation']}' is unknown. "
            f"Known: {', '.join(SPARSIFY_ACTIVATIONS)}."
        )
    _check_k(folder, config, config["num_latents"])
    if config["activation"] == "groupmax" and config["num_latents"] % config["k"]:
        raise UserError(
            f"{folder / CONFIG}: {config['num_latents']} latents do not split into "
            f"k = {config['k']} equal groups."
        )
    return config


def _whole_numbers(folder: Path, config: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Each of `keys` is there, a whole number, and positive."""
    for key in keys:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{folder / CONFIG}: {key} must be a whole number >= 1, got {value!r}.")


def _check_k(folder: Path, config: dict[str, Any], width: int) -> None:
    """The number of latents that are kept is one, and no more than there are."""
    _whole_numbers(folder, config, ("k",))
    if config["k"] > width:
        raise UserError(f"{folder / CONFIG}: k = {config['k']}, but there are {width} latents.")


def _read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a safetensors file as float32; numpy alone knows no bfloat16."""
    if not path.is_file():
        raise UserError(f"{path}: there are no such weights. Fetch or copy the SAE again.")
    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or damaged ({error}).") from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{path}: {name} is {entry['dtype']}; weights must be one of {', '.join(DTYPES)}."
            )
        values = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")  # the upper half of a float32
        tensors[name] = values.astype(np.float32).reshape(entry["shape"])
    return tensors


def _without_unit_scaling(
    tensors: dict[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.float32]]:
    """sae-lens wrote a `scaling_factor` of ones for a while; any other one is left, and refused."""
    scaling = tensors.get("scaling_factor")
    if scaling is None or (scaling != 1).any():
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != "scaling_factor"}


def _check(
    folder: Path,
    tensors: dict[str, NDArray[np.float32]],
    names: tuple[str, ...],
    sizes: tuple[int, int],
) -> None:
    """Exactly these tensors are there, of these shapes, and finite."""
    d_in, width = sizes
    shapes = {"W_enc": (d_in, width), "W_dec": (width, d_in), "b_dec": (d_in,)}
    if missing := [name for name in names if name not in tensors]:
        raise UserError(f"{folder}: the weights lack {', '.join(missing)}.")
    if extra := sorted(set(tensors) - set(names)):
        raise UserError(f"{folder}: the weights hold {', '.join(extra)}, which no such SAE has.")
    for name in names:
        shape = shapes.get(name, (width,))
        if tensors[name].shape != shape:
            raise UserError(
                f"{folder}: {name} is {list(tensors[name].shape)}; by {CONFIG} it is {list(shape)}."
            )
        if not np.isfinite(tensors[name]).all():
            raise UserError(f"{folder}: {name} holds NaN or infinity; this SAE cannot be used.")
