"""A model without training: with its family's fresh weights, or with none at all."""

import copy
import hashlib
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

Kind = Literal["base", "causal"]
"""A model without its head, or with the one that predicts next tokens."""


def auto_class(kind: Kind) -> "type[_BaseAutoModelClass]":
    """What builds models of this kind, whatever their family."""
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModel if kind == "base" else AutoModelForCausalLM


def fresh_model(config: "PreTrainedConfig", seed: int, kind: Kind = "base") -> "PreTrainedModel":
    """A model of a config with the family's own initialisation, in float32 on the CPU.

    The weights depend on config, seed, torch and transformers only: neither on the device and type
    that the model will compute in, nor on the random state of this process, which stays as it is.
    The last bits may also depend on the processor: torch draws normal numbers with its vectors.

    Args:
        config: as the trained model has it; it is not changed.
        seed: from 0, below 2**64.
        kind: the base model of a causal one has the same weights as without the head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: PreTrainedModel = auto_class(kind).from_config(  # type: ignore[no-untyped-call]
            copy.deepcopy(config), dtype=torch.float32
        )
    return model


def empty_model(
    config: "PreTrainedConfig", dtype: torch.dtype, kind: Kind = "base"
) -> "PreTrainedModel":
    """A model of a config on the meta device: modules and shapes, no memory.

    Args:
        config: it is not changed.
        dtype: of the weights that it would have.
        kind: with its head or without.
    """
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(kind).from_config(  # type: ignore[no-untyped-call]
            copy.deepcopy(config), dtype=dtype
        )
    return model


def state_hash(model: "PreTrainedModel") -> str:
    """sha256 over name, type, shape and bytes of each tensor that the model would save, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
