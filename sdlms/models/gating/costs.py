"""What one decoded token reads of a model: its weights counted from the config, none of them made.

At batch 1 a token costs what its weights cost to read. A matrix is read whole, an embedding one
row; the unembedding is read whole, tied to the embedding or not. The key-value cache, which grows
with the text, is no weight and not counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sdlms.models.architectures import Architecture, architecture_for, check_causal, text_config
from sdlms.models.fresh import empty_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Matrix(NamedTuple):
    """The shape of a linear map, whichever way round its weight is stored."""

    n_in: int
    n_out: int

    @property
    def n_weights(self) -> int:
        """Numbers in it; its bias counts elsewhere."""
        return self.n_in * self.n_out


@dataclass(frozen=True)
class LayerCosts:
    """Weights of one transformer block.

    Attributes:
        up: the MLP's matrices into the neurons; two where it is gated, the gate first.
        down: its matrix out of the neurons.
        attention: numbers in all other matrices of the block.
        vectors: numbers in its norms and biases, the MLP's too.
        query_width: numbers in one token's queries, over all heads.
        window: tokens that attention looks back over, itself included; None where it sees all.
    """

    up: tuple[Matrix, ...]
    down: Matrix
    attention: int
    vectors: int
    query_width: int
    window: int | None

    @property
    def mlp(self) -> int:
        """Numbers in the matrices of the MLP."""
        return sum(matrix.n_weights for matrix in self.up) + self.down.n_weights

    @property
    def n_weights(self) -> int:
        """Numbers in the whole block."""
        return self.mlp + self.attention + self.vectors


@dataclass(frozen=True)
class ModelCosts:
    """Weights that one decoded token reads.

    Attributes:
        layers: the blocks, in order.
        unembedding: numbers from the last residual to the logits, without the final norm.
        other: everything else: one row of each embedding, final norm, projections.
    """

    layers: tuple[LayerCosts, ...]
    unembedding: int
    other: int

    @property
    def mlp(self) -> int:
        """Numbers in the matrices of all MLPs."""
        return sum(layer.mlp for layer in self.layers)

    @property
    def n_weights(self) -> int:
        """Numbers read in all."""
        return sum(layer.n_weights for layer in self.layers) + self.unembedding + self.other


def costs_of(config: "PreTrainedConfig") -> ModelCosts:
    """What one token of a causal model reads, from its config alone (10 ms).

    Images' towers are no part of it.

    Raises:
        UserError: if the model is an encoder, or the architecture table does not describe it.
    """
    check_causal(config)
    architecture, text = architecture_for(config), text_config(config)
    model = empty_model(config, torch.float32, "causal")
    # The blocks stand in the text model, which in some families is a part of the base model.
    body = model.base_model.get_submodule(architecture.blocks.rpartition(".")[0])
    blocks = list(cast("nn.ModuleList", model.base_model.get_submodule(architecture.blocks)))
    layers = tuple(_layer_costs(blocks[n], architecture, text, n) for n in range(len(blocks)))
    return ModelCosts(
        layers,
        unembedding=_numbers(_unembedding(model).parameters()),
        other=_numbers_read(body) - sum(_numbers_read(block) for block in blocks),
    )


def _layer_costs(
    block: nn.Module, architecture: Architecture, text: "PreTrainedConfig", layer: int
) -> LayerCosts:
    """The weights of one block."""
    up = tuple(_matrix(block.get_submodule(path)) for path in architecture.up)
    down = _matrix(block.get_submodule(architecture.down_projection))
    matrices = _numbers(weight for weight in block.parameters() if weight.dim() > 1)
    return LayerCosts(
        up,
        down,
        attention=matrices - sum(matrix.n_weights for matrix in (*up, down)),
        vectors=_numbers(weight for weight in block.parameters() if weight.dim() < 2),
        query_width=_query_width(text),
        window=_window(text, layer),
    )


def _matrix(module: nn.Module) -> Matrix:
    """The shape of a linear map; GPT-2's `Conv1D` stores its weight the other way round."""
    n_first, n_second = cast("torch.Tensor", module.weight).shape
    return Matrix(n_first, n_second) if isinstance(module, Conv1D) else Matrix(n_second, n_first)


def _unembedding(model: "PreTrainedModel") -> nn.Module:
    """The map from the last residual to the logits."""
    return cast("nn.Module", model.get_output_embeddings())  # type: ignore[no-untyped-call]


def _numbers(weights: Iterable[torch.Tensor]) -> int:
    """Numbers in all of them."""
    return sum(weight.numel() for weight in weights)


def _numbers_read(body: nn.Module) -> int:
    """Numbers that one token reads: of an embedding one row, of all else everything."""
    return sum(
        module.embedding_dim
        if isinstance(module, nn.Embedding)
        else _numbers(module.parameters(recurse=False))
        for module in body.modules()
    )


def _query_width(text: "PreTrainedConfig") -> int:
    """Numbers in the queries of one token."""
    n_heads = int(text.num_attention_heads)
    return n_heads * int(getattr(text, "head_dim", None) or text.hidden_size // n_heads)


def _window(text: "PreTrainedConfig", layer: int) -> int | None:
    """How far one layer's attention looks back, as the families' configs say it."""
    if text.model_type == "gpt_neo":
        return int(text.window_size) if text.attention_layers[layer] == "local" else None
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if window is None or (kinds is not None and kinds[layer] != "sliding_attention"):
        return None
    return int(window)
