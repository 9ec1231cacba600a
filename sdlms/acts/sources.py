"""Where activations come from: what every source can do, and the one that is a tensor."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import DIMS, STORE_DTYPES, Description, Ranges
from sdlms.errors import UserError
from sdlms.storage.activations import Header
from sdlms.storage.rows import document_blocks

BLOCK_TOKENS = 8192
Positions = NDArray[np.int64]
Reduce = Callable[[Positions, Tensor], list[Tensor]]
Take = Callable[[int, Positions, list[Tensor]], None]


@dataclass(frozen=True)
class Cost:
    """What a scan will take.

    Attributes:
        bytes_read: from the disk, activations and mask.
        buffer_bytes: held while it runs, beside what is made of it.
        block_rows: rows of one layer that are there at a time.
        forward_tokens: that a model runs over.
    """

    bytes_read: int = 0
    buffer_bytes: int = 0
    block_rows: int = 0
    forward_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a scan reads.

    Attributes:
        ranges: the rows.
        layers: of the source's.
        masked: whether the mask of the rows is read beside each layer, or once for layers that
            come together.
        together: whether all layers of the same positions must come one after another.
        n_searched: rows whose mask is read once, apart from that.
        unpooled: whether rows are needed as they are, beyond the moment when they are there.
    """

    ranges: Ranges
    layers: Sequence[int]
    masked: bool
    together: bool
    n_searched: int = 0
    unpooled: bool = True


class Source(Protocol):
    """Activations that are read when they are asked for."""

    @property
    def description(self) -> Description:
        """What they are of."""

    @property
    def place(self) -> str:
        """What it is, in a few words, the same on every machine."""

    @property
    def all_layers_at_once(self) -> bool:
        """Whether one layer costs what all of them cost, so that they are to be made together."""

    def mask(self, ranges: Ranges) -> NDArray[np.bool_]:
        """`[row]`, which rows statistics read, range by range."""

    def ids(self, ranges: Ranges) -> NDArray[np.int32]:
        """`[row]` token ids, range by range; -1 where they are not known."""

    def scan(self, wanted: "Wanted", reduce: Reduce, take: Take) -> None:
        """Read every range of every layer once.

        Args:
            wanted: what is read.
            reduce: makes what is needed of `[row, unit]` in the stored type, the rows of some
                positions in `wanted.ranges` one after another. It may be called again for rows
                that it has seen, and what it returns may be rows themselves.
            take: is given a layer, the positions, and what `reduce` made of their rows; rows among
                it are overwritten afterwards.
        """

    def expect(self, wanted: "Wanted") -> None:
        """Say that a scan will follow soon: what can be fetched in the background, may be."""

    def cost(self, wanted: "Wanted") -> Cost:
        """What a scan will take."""

    def fingerprint(self) -> str:
        """Names the content: the same for the same activations, another for others."""


def blocks_of(ranges: Ranges) -> list[Positions]:
    """Positions, in blocks of about `BLOCK_TOKENS` rows."""
    bounds = document_blocks(ranges.offsets, BLOCK_TOKENS)
    return [np.arange(first, last, dtype=np.int64) for first, last in bounds]


def steps_of(ranges: Ranges) -> NDArray[np.int64]:
    """`[row]` 0, 1, … within each range."""
    return np.arange(ranges.n_rows) - np.repeat(ranges.offsets[:-1], ranges.lengths)


def largest_block(ranges: Ranges) -> int:
    """Rows of the largest block."""
    return max((int(ranges.lengths[block].sum()) for block in blocks_of(ranges)), default=0)


class TensorSource:
    """Activations in memory."""

    place = "tensor"
    all_layers_at_once = False

    def __init__(self, tensor: Tensor, mask: Tensor | None, description: Description) -> None:
        """Take a tensor as it is described; use `tensor_source`."""
        self.tensor, self.mask_tensor, self.description = tensor, mask, description

    def mask(self, ranges: Ranges) -> NDArray[np.bool_]:
        """`[row]`, which rows statistics read."""
        if self.mask_tensor is None:
            return np.ones(ranges.n_rows, dtype=np.bool_)
        mask = self.mask_tensor.cpu().numpy()
        columns = steps_of(ranges) + np.repeat(ranges.first, ranges.lengths)
        kept: NDArray[np.bool_] = mask[np.repeat(ranges.documents, ranges.lengths), columns]
        return kept

    def ids(self, ranges: Ranges) -> NDArray[np.int32]:
        """Nobody knows."""
        return np.full(ranges.n_rows, -1, dtype=np.int32)

    def scan(self, wanted: Wanted, reduce: Reduce, take: Take) -> None:
        """Hand over every range, block by block, layers within."""
        for positions in blocks_of(wanted.ranges):
            for layer in wanted.layers:
                rows = self._rows(layer, wanted.ranges.at(positions))
                take(layer, positions, reduce(positions, rows))

    def _rows(self, layer: int, ranges: Ranges) -> Tensor:
        """`[row, unit]` of one layer."""
        if self.description.has_layers:
            acts = self.tensor[:, self.description.layers.index(layer)]
        else:
            acts = self.tensor
        if not self.description.has_tokens:
            return acts[torch.from_numpy(ranges.documents).to(acts.device)]
        rows = torch.from_numpy(np.repeat(ranges.documents, ranges.lengths))
        columns = torch.from_numpy(steps_of(ranges) + np.repeat(ranges.first, ranges.lengths))
        return acts[rows.to(acts.device), columns.to(acts.device)]

    def expect(self, wanted: Wanted) -> None:
        """Nothing is to be fetched."""

    def cost(self, wanted: Wanted) -> Cost:
        """Nothing is read; the rows of a block are gathered."""
        row_bytes = self.description.n_units * self.tensor.element_size()
        n_rows = largest_block(wanted.ranges)
        return Cost(buffer_bytes=n_rows * row_bytes, block_rows=n_rows)

    def fingerprint(self) -> str:
        """Of every byte."""
        digest = hashlib.sha256(f"{self.description}".encode())
        for tensor in (self.tensor, self.mask_tensor):
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def tensor_source(
    tensor: Tensor | NDArray[Any],
    dims: str,
    mask: Tensor | NDArray[Any] | Sequence[Sequence[int]] | None = None,
    layers: Sequence[int] | None = None,
    documents: Sequence[str] | None = None,
) -> TensorSource:
    """A tensor of the user's, checked.

    What lies behind a document's last token of mask 1 counts as padding; what is padding in all
    documents is cut off. Gradients do not pass.

    Raises:
        UserError: axes, shapes, types, mask or names do not fit together.
    """
    acts = _checked_tensor(tensor, dims).detach()
    n_documents, n_units = acts.shape[0], acts.shape[-1]
    kept: Tensor | None = None
    lengths = np.ones(n_documents, dtype=np.int64)
    if mask is not None or "s" in dims:
        kept = _checked_mask(acts, dims, mask)
        positions = torch.arange(1, kept.shape[1] + 1, device=kept.device)
        lengths = (positions * kept).amax(1).cpu().numpy() if kept.shape[1] else lengths * 0
        longest = int(lengths.max(initial=0))
        acts, kept = acts.narrow(dims.index("s"), 0, longest), kept[:, :longest]
    n_layers = acts.shape[1] if "l" in dims else 1
    named = tuple(range(n_layers)) if layers is None else tuple(int(layer) for layer in layers)
    if len(named) != n_layers or len(set(named)) < n_layers or min(named, default=0) < 0:
        raise UserError(f"layers={list(named)}: {n_layers} different ones, from 0 on, are needed.")
    ids = [str(i) for i in range(n_documents)] if documents is None else list(map(str, documents))
    if len(ids) != n_documents:
        raise UserError(f"documents: {len(ids)} ids for {n_documents} documents.")
    store = {"acts": STORE_DTYPES[acts.dtype]}
    header = Header("", "", {}, store, "", gated=False, dims=dims)
    description = Description(
        dims=dims,
        site="acts",
        layers=named,
        n_units=n_units,
        dtype=acts.dtype,
        lengths=lengths,
        document_ids=ids,
        document_tasks=[""] * n_documents,
        header=header,
        device=acts.device,
    )
    return TensorSource(acts, kept, description)


def _as_tensor(name: str, values: object) -> Tensor:
    """What a user gave, without a copy wherever torch can write to it."""
    try:
        if isinstance(values, np.ndarray):
            values = np.require(values, requirements=["C", "W"])
        return torch.as_tensor(values)
    except (RuntimeError, TypeError, ValueError):
        raise UserError(
            f"{name} cannot be made of a {type(values).__name__} such as this. Give a tensor."
        ) from None


def _checked_tensor(given: Tensor | NDArray[Any], dims: str) -> Tensor:
    """Refuse axes that there are not, and types that no file holds."""
    if not isinstance(given, Tensor | np.ndarray):
        raise UserError(f"a tensor or a numpy array is needed, got a {type(given).__name__}.")
    tensor = _as_tensor("the tensor", given)
    if dims not in DIMS:
        raise UserError(f"dims='{dims}' is none of {', '.join(DIMS)}.")
    if tensor.dim() != len(dims):
        raise UserError(f"dims='{dims}' needs {len(dims)} axes, the tensor has {tensor.dim()}.")
    if tensor.dtype not in STORE_DTYPES:
        raise UserError(f"the tensor is {tensor.dtype}; float16, bfloat16 or float32 is needed.")
    if tensor.shape[-1] == 0:
        raise UserError(f"the tensor {list(tensor.shape)} has no units: its last axis is empty.")
    return tensor


def _checked_mask(
    tensor: Tensor, dims: str, given: Tensor | NDArray[Any] | Sequence[Sequence[int]] | None
) -> Tensor:
    """The mask as bool, of the shape that belongs to the tensor."""
    if "s" not in dims:
        raise UserError(f"dims='{dims}' has no tokens, so it takes no mask.")
    shape = (tensor.shape[0], tensor.shape[dims.index("s")])
    if given is None:
        raise UserError(f"dims='{dims}' needs a mask {list(shape)}: 1 where statistics read.")
    mask = _as_tensor("the mask", given)
    if tuple(mask.shape) != shape:
        raise UserError(f"the mask is {list(mask.shape)}, dims='{dims}' needs {list(shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError("the mask holds other values than 0 and 1.")
    return mask.to(tensor.device).bool()
