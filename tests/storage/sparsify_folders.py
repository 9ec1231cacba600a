"""SAEs in the layout of EleutherAI's sparsify, of random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Weights = NDArray[np.float32]


def sparsify_config(d_in: int, width: int, k: int, activation: str) -> dict[str, Any]:
    return {
        "activation": activation,
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": width,
        "k": k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d_in,
    }


def write_sparsify(
    folder: Path, d_in: int, width: int, k: int, activation: str = "topk"
) -> tuple[Weights, Weights, Weights, Weights]:
    """Write one; returns its encoder `[latent, unit]`, its bias, decoder and `b_dec`."""
    random = np.random.default_rng(0)
    shapes = {
        "encoder.weight": (width, d_in),
        "encoder.bias": (width,),
        "W_dec": (width, d_in),
        "b_dec": (d_in,),
    }
    tensors = {name: random.normal(size=shapes[name]).astype(np.float32) for name in shapes}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(sparsify_config(d_in, width, k, activation)))
    encoder, bias, decoder, centre = (tensors[name] for name in shapes)
    return encoder, bias, decoder, centre
