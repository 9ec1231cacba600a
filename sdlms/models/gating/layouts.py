"""The linear maps of an MLP, and their weights laid out so that what a rule skips is whole rows."""

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
Swap = tuple[Tensor, Tensor]  # int64 [n] rows, and the rows that go there
# A linear map's own rows: nn.Linear holds [out, in], transformers' Conv1D [in, out].
ROWS: dict[type[nn.Module], Axis] = {nn.Linear: "outputs", Conv1D: "inputs"}


class LinearMap:
    """One linear map of a model, at its place.

    Attributes:
        module: the map.
        weight: its weight.
        bias: its bias, or None.
        rows: what the rows of its weight belong to.
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
        shape = self.weight.shape
        self.n_outputs, self.n_inputs = shape if self.rows == "outputs" else shape[::-1]

    def put(self, module: nn.Module) -> None:
        """Put a module in the map's place."""
        setattr(self._parent, self._name, module)


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
            address = parameter.untyped_storage().data_ptr()
            counts[address] = counts.get(address, 0) + 1
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
    weight = cast("Tensor", module.weight)
    if weight.device.type == "meta":
        raise UserError(f"{name} is not in memory (device meta): it is offloaded. {way_out}")
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise UserError(f"{name} holds {str(weight.dtype)[6:]}; rules know floats. {way_out}")
    if owners[weight.untyped_storage().data_ptr()] > 1:
        raise UserError(f"{name} shares its weight with another part of the model. {way_out}")


class Rows:
    """The weight of a linear map as contiguous rows, one for each input or for each output.

    Where the map holds it the other way round, the transposed copy takes the place of its weight,
    which becomes a view of that copy: the memory of one matrix more for a moment, then none.

    Args:
        linear: the map.
        axis: what a row belongs to.
        copied: leave the map's own weight as it is and work on a copy, in twice the memory.

    Attributes:
        rows: `[in, out]` or `[out, in]`, contiguous.
        bias: `[out]`, or None.
    """

    def __init__(self, linear: LinearMap, axis: Axis, *, copied: bool) -> None:
        weight, bias = linear.weight.data, linear.bias
        self._linear, self._axis, self._copied = linear, axis, copied
        self._strides = weight.stride()
        self._swapped: Swap | None = None
        self._torn: tuple[Swap | None, list[tuple[Tensor, Tensor, Tensor]]] | None = None
        self.rows = self._turned(weight).contiguous()
        self.bias = None if bias is None else bias.data
        if copied and self.rows.data_ptr() == weight.data_ptr():
            self.rows = self.rows.clone()
        if copied and self.bias is not None:
            self.bias = self.bias.clone()

    def lay_(self) -> None:
        """Make the rows the map's own weight; `lay_back` undoes it."""
        if not self._copied:
            self._linear.weight.data = self._turned(self.rows)

    def _turned(self, weight: Tensor) -> Tensor:
        """From the map's own axes to ours, or back."""
        return weight if self._linear.rows == self._axis else weight.t()

    def front_(self, kept: Tensor) -> None:
        """Swap rows so that the kept ones come first, and biases where rows are outputs.

        Args:
            kept: bool `[row]`.
        """
        self.restore_()
        n = int(kept.sum())
        strays = kept[n:].nonzero().flatten() + n
        holes = (~kept[:n]).nonzero().flatten()
        swap = (torch.cat([holes, strays]), torch.cat([strays, holes]))
        self._swap_(swap, swap)

    def restore_(self) -> None:
        """Undo `front_` exactly; also one that an exception interrupted."""
        if self._torn is not None:
            before, saved = self._torn
            for tensor, indices, values in saved:
                tensor[indices] = values
            self._swapped, self._torn = before, None
        if self._swapped is not None:
            self._swap_(self._swapped, None)

    def _swap_(self, swap: Swap, after: Swap | None) -> None:
        """Move rows; until all is moved `_torn` knows what was there before."""
        to, source = swap
        tensors = [self.rows]
        if self._axis == "outputs" and self.bias is not None:
            tensors.append(self.bias)
        saved = [(tensor, to, tensor[to]) for tensor in tensors]
        moved = [tensor[source] for tensor in tensors]
        self._torn = (self._swapped, saved)
        for tensor, values in zip(tensors, moved, strict=True):
            tensor[to] = values
        self._swapped = after
        self._torn = None

    def lay_back(self) -> None:
        """Give the map its weight again, bit by bit and with the strides it had."""
        self.restore_()
        weight = self._linear.weight
        if not self._copied and weight.stride() != self._strides:
            back = torch.empty_strided(
                weight.shape, self._strides, dtype=weight.dtype, device=weight.device
            )
            weight.data = back.copy_(weight.data)
