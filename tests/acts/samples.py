"""Small activations in memory, on disk and in models, and a plain eager account of what Acts do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import STORE_DTYPES, Description, Ranges
from sdlms.acts.file_source import FileSource
from sdlms.acts.handle import Acts
from sdlms.acts.sources import Cost, Reduce, Source, Take, Wanted
from sdlms.errors import UserError
from sdlms.storage.activations import Header, create_activations, dataset_name
from sdlms.storage.flat import FlatWriter
from sdlms.storage.row_file import find_rows
from sdlms.storage.rows import Rows

SITE = "resid_post"
LAYERS = (1, 3, 4)


@dataclass(frozen=True)
class Sample:
    """Activations of documents of several lengths: `acts[layer]` is `[row, unit]`."""

    acts: dict[int, Tensor]
    rows: Rows

    @property
    def padded(self) -> Tensor:
        """`[document, layer, token, unit]`, padded with 0."""
        longest = int(self.rows.lengths.max(initial=0))
        layers = list(self.acts)
        n_units = self.acts[layers[0]].shape[1]
        padded = torch.zeros(
            (self.rows.n_documents, len(layers), longest, n_units), dtype=self.acts[layers[0]].dtype
        )
        for document, (first, length) in enumerate(
            zip(self.rows.offsets, self.rows.lengths, strict=False)
        ):
            for index, layer in enumerate(layers):
                padded[document, index, :length] = self.acts[layer][first : first + length]
        return padded

    @property
    def padded_mask(self) -> Tensor:
        """`[document, token]`."""
        mask = torch.zeros(self.rows.n_documents, int(self.rows.lengths.max(initial=0)))
        for document, (first, length) in enumerate(
            zip(self.rows.offsets, self.rows.lengths, strict=False)
        ):
            mask[document, :length] = torch.from_numpy(
                self.rows.mask[first : first + length].astype(np.float32)
            )
        return mask.bool()


def rows_with(lengths: Sequence[int], mask: NDArray[Any] | None = None) -> Rows:
    """Documents of these lengths, with ids that count up."""
    n_tokens = sum(lengths)
    return Rows(
        ids=np.arange(1, n_tokens + 1, dtype=np.int32),
        mask=np.ones(n_tokens, np.uint8) if mask is None else mask.astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(lengths))],
        document_tasks=["maths" if i % 2 else "prosé" for i in range(len(lengths))],
    )


def sample(
    lengths: Sequence[int],
    seed: int = 0,
    layers: Sequence[int] = LAYERS,
    n_units: int = 3,
    dtype: torch.dtype = torch.float32,
    holes: bool = True,
) -> Sample:
    """Random activations; with `holes` about a third of the tokens have mask 0."""
    generator = np.random.default_rng(seed)
    mask = generator.random(sum(lengths)) > 0.35 if holes else None
    acts = {
        layer: torch.from_numpy(generator.normal(size=(sum(lengths), n_units)).astype(np.float32))
        for layer in layers
    }
    return Sample({k: v.to(dtype) for k, v in acts.items()}, rows_with(lengths, mask))


def write_sample(path: Path, data: Sample, site: str = SITE) -> Path:
    """As the capture stage lays it out."""
    layers = list(data.acts)
    dtype = STORE_DTYPES[data.acts[layers[0]].dtype]
    header = Header(
        model="tiny",
        revision="abc",
        units={(site, layer): data.acts[layer].shape[1] for layer in layers},
        store_dtype={site: dtype},
        activation_function="gelu",
        gated=True,
        control="reinit",
    )
    create_activations(path, header, data.rows)
    with FlatWriter(path) as writer:
        for layer, acts in data.acts.items():
            bits = acts.view(torch.uint16) if acts.dtype == torch.bfloat16 else acts
            writer.write(dataset_name((site, layer)), 0, bits.numpy())
    return path


def file_of(path: Path, data: Sample) -> FileSource:
    """The same as a source."""
    return FileSource(find_rows(write_sample(path, data)), SITE)


def acts_of(source: Source) -> Acts:
    """A handle over any source."""
    return Acts._of(source)


class Counting:
    """A source that hands everything on and notes which calls there were."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.calls: list[str] = []
        self.rows_seen: list[tuple[int, int]] = []  # layer, rows

    @property
    def description(self) -> Description:
        return self.source.description

    @property
    def place(self) -> str:
        return self.source.place

    @property
    def all_layers_at_once(self) -> bool:
        return self.source.all_layers_at_once

    def mask(self, ranges: Ranges) -> NDArray[np.bool_]:
        self.calls.append("mask")
        return self.source.mask(ranges)

    def ids(self, ranges: Ranges) -> NDArray[np.int32]:
        self.calls.append("ids")
        return self.source.ids(ranges)

    def scan(self, wanted: Wanted, reduce: Reduce, take: Take) -> None:
        self.calls.append("scan")
        self.rows_seen += [(layer, wanted.ranges.n_rows) for layer in wanted.layers]
        self.source.scan(wanted, reduce, take)

    def expect(self, wanted: Wanted) -> None:
        self.calls.append("expect")
        self.source.expect(wanted)

    def cost(self, wanted: Wanted) -> Cost:
        return self.source.cost(wanted)

    def fingerprint(self) -> str:
        self.calls.append("fingerprint")
        return self.source.fingerprint()


# An eager account, one operation after another, in loops: it knows no plan.


@dataclass(frozen=True)
class Eager:
    """`tensor` has the axes `dims`, in float64; `dtype` is in which the result is delivered."""

    tensor: Tensor
    dims: str
    lengths: tuple[int, ...]
    mask: tuple[tuple[bool, ...], ...]  # of each document
    layers: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_pooled(self) -> int:
        return 4 - len(self.dims)


def eager_of(data: Sample, cut_behind_mask: bool = False) -> Eager:
    """Where the account starts; `cut_behind_mask` as tensors of the user's are read."""
    mask = [
        tuple(bool(m) for m in data.rows.mask[a:b])
        for a, b in zip(data.rows.offsets[:-1], data.rows.offsets[1:], strict=True)
    ]
    if cut_behind_mask:
        mask = [m[: max((i + 1 for i, kept in enumerate(m) if kept), default=0)] for m in mask]
    lengths = tuple(len(m) for m in mask)
    tensor = data.padded.double()[:, :, : max(lengths, default=0)].clone()
    for document, length in enumerate(lengths):
        tensor[document, :, length:] = 0
    dtype = next(iter(data.acts.values())).dtype
    return Eager(tensor, "blsh", lengths, tuple(mask), tuple(data.acts), dtype)


def eager_layers(state: Eager, layers: int | list[int]) -> Eager:
    wanted = [layers] if isinstance(layers, int) else layers
    if "l" not in state.dims or not wanted or len(set(wanted)) < len(wanted):
        raise UserError("select_layers")
    if set(wanted) - set(state.layers):
        raise UserError("select_layers")
    places = [state.layers.index(layer) for layer in wanted]
    tensor, dims = state.tensor[:, places], state.dims
    if isinstance(layers, int):
        tensor, dims = tensor[:, 0], dims.replace("l", "")
    return replace(state, tensor=tensor, dims=dims, layers=tuple(wanted))


def eager_documents(state: Eager, which: slice | list[int]) -> Eager:
    n = len(state.lengths)
    if isinstance(which, list) and any(not -n <= i < n for i in which):
        raise UserError("slice_batch")
    chosen = list(range(n))[which] if isinstance(which, slice) else [range(n)[i] for i in which]
    lengths = tuple(state.lengths[i] for i in chosen)
    tensor = state.tensor[chosen]
    if "s" in state.dims:
        tensor = tensor.narrow(state.dims.index("s"), 0, max(lengths, default=0))
    return replace(state, tensor=tensor, lengths=lengths, mask=tuple(state.mask[i] for i in chosen))


def _folded(pieces: list[Tensor], kind: str, like: Tensor) -> Tensor:
    if not pieces:
        return torch.full_like(like, 0.0 if kind == "sum" else torch.nan)
    if kind == "last":
        return pieces[-1]
    total = pieces[0]
    for piece in pieces[1:]:
        total = torch.maximum(total, piece) if kind == "max" else total + piece
    return total / len(pieces) if kind == "mean" else total


def eager_pool(state: Eager, kind: str, axis: str) -> Eager:
    if axis not in state.dims or (kind, axis) == ("last", "l"):
        raise UserError(f"{kind}_pool")
    place = state.dims.index(axis)
    results = []
    for document, row in enumerate(state.tensor):  # [l], [s], h
        if axis == "l":
            results.append(_folded(list(row.unbind(0)), kind, row[0]))
            continue
        tokens = row.unbind(place - 1)
        kept = [tokens[i] for i, m in enumerate(state.mask[document]) if m]
        like = torch.zeros([n for i, n in enumerate(row.shape) if i != place - 1]).double()
        results.append(_folded(kept, kind, like))
    shape = [n for i, n in enumerate(state.tensor.shape) if i != place]
    tensor = torch.stack(results) if results else torch.zeros(shape).double()
    # Padding stays 0, whatever layers are folded into.
    return replace(
        state,
        tensor=tensor,
        dims=state.dims.replace(axis, ""),
        dtype=torch.float32,
    )


Operation = tuple[str, Any]


def eager_then(state: Eager, operation: Operation) -> Eager:
    """One operation on the eager side. `cast` is noted by whoever runs the sequence."""
    name, argument = operation
    if name == "select_layers":
        return eager_layers(state, argument)
    if name == "slice_batch":
        return eager_documents(state, argument)
    if name.endswith("_pool"):
        return eager_pool(state, name.removesuffix("_pool"), argument)
    return state  # to


def acts_then(acts: Acts, operation: Operation) -> Acts:
    """The same operation on a handle."""
    name, argument = operation
    method: Callable[[Any], Acts] = getattr(acts, name)
    return method(argument)
