"""The linear maps of an MLP, and what about their weights must hold to lay them out by rows."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_for, blocks_of
from sdlms.models.gating.stand_ins import StandIn

Axis = Literal["inputs", "outputs"]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OTHER: dict[Axis, Axis] = {"inputs": "outputs", "outputs": "inputs"}
# A linear map's own rows: nn.Linear holds [out, in], transformers' Conv1D [in, out].
ROWS: dict[type[nn.Module], Axis] = {nn.Linear: "outputs", Conv1D: "inputs"}


class LinearMap:
    """One linear map of a model, at its place.

    Attributes:
        module: the map.
        weight: its weight.
        bias: its bias, or None.
        rows: what the rows of its weight belong to.
        dense_rows: what those rows of its weight belong to that lie in memory one after the other;
            None where neither rows nor columns do.
        n_inputs: of the map.
        n_outputs: of the map.
    """

    def __init__(self, block: nn.Module, path: str) -> None:
        parent, _, self._name = path.rpartition(".")
        self._parent = block.get_submodule(parent)
        self.module = block.get_submodule(path)
        self.rows = ROWS[type(self.module)]
        self.weight = cast("nn.Parameter", self.module.weight)
        self.bias = cast("nn.Parameter | None", self.module.bias)
        self.dense_rows = _dense_rows(self.weight, self.rows)
        shape = self.weight.shape
        self.n_outputs, self.n_inputs = shape if self.rows == "outputs" else shape[::-1]

    def put(self, module: nn.Module) -> None:
        """Put a module in the map's place."""
        setattr(self._parent, self._name, module)

    def by(self, axis: Axis | None) -> Tensor:
        """The weight with a row for each input, or for each output."""
        return self.weight if axis == self.rows else self.weight.t()


def _dense_rows(weight: Tensor, rows: Axis) -> Axis | None:
    """See `LinearMap.dense_rows`."""
    if weight.is_contiguous():
        return rows
    return OTHER[rows] if weight.t().is_contiguous() else None


@dataclass(frozen=True)
class Mlp:
    """The linear maps of one layer's MLP.

    Attributes:
        layer: from 0.
        block: that they lie in.
        ups: the maps into the neurons, as the architecture table orders them.
        down: the map from the neurons.
    """

    layer: int
    block: nn.Module
    ups: tuple[LinearMap, ...]
    down: LinearMap

    @property
    def maps(self) -> tuple[LinearMap, ...]:
        """Those of `ups`, then `down`."""
        return (*self.ups, self.down)


def mlps_of(model: PreTrainedModel, layers: tuple[int, ...] | None) -> list[Mlp]:
    """The MLPs of some layers, all where None, ascending.

    Raises:
        UserError: the architecture table does not describe the model; or an MLP's weights cannot be
            laid out by rows: not a plain linear map, not in memory, or shared.
        ValueError: a layer does not exist, or none is asked for.
    """
    base = cast("PreTrainedModel", model.base_model)
    architecture, blocks = architecture_for(model.config), blocks_of(base)
    wanted = range(len(blocks)) if layers is None else sorted(set(layers))
    absent = [layer for layer in wanted if not 0 <= layer < len(blocks)]
    if absent or not wanted:
        raise ValueError(f"layers {absent} do not exist; the model has 0 to {len(blocks) - 1}")
    owners = _owners(model)
    found = []
    for layer in wanted:
        for path in (*architecture.up, architecture.down_projection):
            _check(blocks[layer].get_submodule(path), f"layer {layer}: its MLP's {path}", owners)
        ups = tuple(LinearMap(blocks[layer], path) for path in architecture.up)
        down = LinearMap(blocks[layer], architecture.down_projection)
        found.append(Mlp(layer, blocks[layer], ups, down))
    return found


def _owners(model: nn.Module) -> dict[int, int]:
    """How many places of a model each storage has, by its address."""
    counts: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.device.type != "meta":
            start = address(parameter)
            counts[start] = counts.get(start, 0) + 1
    return counts


def _check(module: nn.Module, name: str, owners: dict[int, int]) -> None:
    """Refuse what cannot be laid out by rows."""
    way_out = "Load the model unquantised, unshared and on its devices as a whole."
    if isinstance(module, StandIn):
        raise UserError(f"{name} is gated already. Gate other layers, or leave that context first.")
    if type(module) not in ROWS:
        raise UserError(
            f"{name} is a {type(module).__name__}; rules know Linear and Conv1D. {way_out}"
        )
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None or weight is not module.weight or bias is not module.bias:
        raise UserError(
            f"{name} makes its weight from other tensors (weight_norm, pruning). Make that lasting "
            "or remove it (torch.nn.utils), or gate other layers."
        )
    if weight.device.type == "meta":
        raise UserError(f"{name} is not in memory (device meta): it is offloaded. {way_out}")
    if weight.dtype not in DTYPES:
        known = ", ".join(str(dtype)[6:] for dtype in DTYPES)
        raise UserError(f"{name} holds {str(weight.dtype)[6:]}; rules know {known}. {way_out}")
    if owners[address(weight)] > 1:
        raise UserError(f"{name} shares its weight with another part of the model. {way_out}")
    if _dense_rows(weight, "inputs") is None:
        raise UserError(f"{name} has gaps in memory, strides {weight.stride()}. {way_out}")


def address(tensor: Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()
