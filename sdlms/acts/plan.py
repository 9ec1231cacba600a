"""What is to be done with a source: operations, folded one by one into a normal form.

    source → layers → documents → pooling → cast → device

Selections move to the source. Pooling over tokens comes before pooling over layers wherever the
two commute (mean and sum with each other, max with max, the last token with all). `cast` is the
type in which results are delivered, wherever it stands: values are pooled in float32, whatever
they are stored in, so that `cast(float16).mean_pool()` loses nothing before the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.acts.description import STORE_DTYPES, Description
from sdlms.errors import UserError
from sdlms.models.device import device_of
from sdlms.numerics.pooling import PoolKind

Axis = Literal["s", "l"]
LINEAR = ("mean", "sum")
AXES = {"s": "tokens", "l": "layers"}


class Pool(NamedTuple):
    """One pooling."""

    kind: PoolKind
    axis: Axis

    def __str__(self) -> str:
        return f"{self.kind} {self.axis}"


@dataclass(frozen=True, eq=False)
class Plan:
    """The normal form.

    Attributes:
        layers: the layers that are read, in order.
        one_layer: whether one was selected alone, which drops its axis.
        documents: indices of the documents that are read, in order; None is all of them.
        pools: at most one per axis, in the order in which they are done.
        dtype: in which results are delivered; None leaves the stored type, float32 once pooled.
        device: where results go; None is where the source has them.
    """

    layers: tuple[int, ...]
    one_layer: bool = False
    documents: NDArray[np.int64] | None = None
    pools: tuple[Pool, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def dims(self, source: Description) -> str:
        """The axes of the result."""
        gone = {pool.axis for pool in self.pools} | ({"l"} if self.one_layer else set())
        return "".join(axis for axis in source.dims if axis not in gone)

    def chosen(self, source: Description) -> NDArray[np.int64]:
        """`[document]` the documents that are read, as indices into the source's."""
        if self.documents is None:
            return np.arange(source.n_documents, dtype=np.int64)
        return self.documents

    def delivered(self, source: Description) -> torch.dtype:
        """The type of the result."""
        return self.dtype or (torch.float32 if self.pools else source.dtype)

    def is_nothing(self, source: Description) -> bool:
        """Whether the source is the result."""
        return (
            self.layers == source.layers
            and not self.one_layer
            and self.documents is None
            and not self.pools
            and self.dtype in (None, source.dtype)
            and self.device in (None, source.device)
        )

    def pool(self, axis: Axis) -> PoolKind | None:
        """How an axis is pooled."""
        return next((pool.kind for pool in self.pools if pool.axis == axis), None)


def with_layers(plan: Plan, source: Description, layers: int | Sequence[int]) -> Plan:
    """Select layers by their number in the model; one alone drops the axis."""
    if "l" not in plan.dims(source):
        raise UserError(f"select_layers: these activations have dims '{plan.dims(source)}', no l.")
    one = isinstance(layers, int | np.integer)
    wanted = _layer_numbers([layers] if isinstance(layers, int) else layers)
    if len(set(wanted)) < len(wanted):
        raise UserError(f"select_layers: {list(wanted)} names a layer twice.")
    for layer in wanted:
        if layer not in plan.layers:
            held = ", ".join(str(known) for known in plan.layers)
            raise UserError(f"select_layers: there is no layer {layer}; these are {held}.")
    return replace(plan, layers=wanted, one_layer=one)


def _layer_numbers(layers: Sequence[int] | np.integer) -> tuple[int, ...]:
    """Layers that a user named, as plain integers."""
    numbers = np.atleast_1d(numbers_of(layers))
    if numbers.size == 0:
        raise UserError("select_layers: no layer is named.")
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError("select_layers: takes a number or a list of numbers.")
    return tuple(numbers.tolist())


def numbers_of(values: object) -> NDArray[Any]:
    """What a user gave, as an array; without axes and of no number where it is none."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError):  # lists of unequal length, a tensor of another device
        return np.asarray(None)


def with_documents(
    plan: Plan, source: Description, which: slice | Sequence[int] | NDArray[np.integer]
) -> Plan:
    """Select documents; indices may come in any order, negative ones count from the end."""
    chosen = plan.chosen(source)
    if isinstance(which, slice):
        try:
            return replace(plan, documents=chosen[which].copy())  # a view would keep all of them
        except (TypeError, ValueError) as error:
            raise UserError(f"slice_batch: {error}.") from None
    indices = numbers_of(which)
    if indices.size == 0:
        indices = indices.astype(np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise UserError("slice_batch: takes a slice or a list of integers.")
    if indices.size and not -len(chosen) <= indices.min() <= indices.max() < len(chosen):
        outside = indices[(indices < -len(chosen)) | (indices >= len(chosen))][0]
        raise UserError(f"slice_batch: there is no document {outside}; there are {len(chosen)}.")
    return replace(plan, documents=chosen[indices.astype(np.int64)])


def with_pool(plan: Plan, source: Description, pool: Pool) -> Plan:
    """Pool one axis away."""
    name = f"{pool.kind}_pool(dim='{pool.axis}')"
    if pool.axis not in AXES:
        raise UserError(f"{name}: dim is 's' (tokens) or 'l' (layers).")
    if pool.axis not in (dims := plan.dims(source)):
        raise UserError(f"{name}: these activations have dims '{dims}', no {AXES[pool.axis]}.")
    if pool == Pool("last", "l"):
        raise UserError(f"{name}: pool layers by mean, max or sum, or use select_layers.")
    pools = (*plan.pools, pool)
    if len(pools) == 2 and pools[0].axis == "l" and _commute(*pools):
        pools = (pools[1], pools[0])
    return replace(plan, pools=pools)


def _commute(first: Pool, second: Pool) -> bool:
    """Whether two poolings over different axes give the same in either order."""
    kinds = {first.kind, second.kind}
    return "last" in kinds or kinds <= set(LINEAR) or kinds == {"max"}


def with_dtype(plan: Plan, dtype: torch.dtype | str) -> Plan:
    """Deliver results in another type."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in STORE_DTYPES:
        raise UserError(f"cast: '{dtype}' is none of float16, bfloat16, float32.")
    return replace(plan, dtype=found)


def with_device(plan: Plan, device: torch.device | str) -> Plan:
    """Deliver results on another device."""
    try:
        return replace(plan, device=device_of(str(torch.device(device))))
    except (RuntimeError, TypeError):
        raise UserError(f"to: '{device}' is no device. Use cpu, cuda, cuda:N or mps.") from None
    except UserError as error:
        raise UserError(f"to: {str(error).removeprefix('--device ')}") from None
