"""Carry out plans: several over one source in one pass, pooled while rows are read."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import Description, Ranges, whole
from sdlms.acts.plan import Plan
from sdlms.acts.sources import Positions, Source, Wanted, blocks_of
from sdlms.acts.threads import one_thread
from sdlms.errors import UserError
from sdlms.numerics.pooling import pool_documents

NOTHING = np.empty(0, dtype=np.bool_)


class Sink(Protocol):
    """Where the result of a plan goes."""

    def put(self, layer: int, positions: Positions, acts: Tensor) -> None:
        """Take results.

        Args:
            layer: index on the axis l of the result; 0 where there is none.
            positions: of documents in the result.
            acts: `[row, unit]`, rows of these documents one after another; one row per document
                where tokens were pooled. They are overwritten afterwards.
        """


class Job:
    """One plan on its way."""

    def __init__(self, plan: Plan, source: Description, sink: Sink) -> None:
        self.plan, self._source, self._sink = plan, source, sink
        self._delivered = plan.delivered(source)
        self._layer_kind = plan.pool("l")
        self.tokens_first = not plan.pools or plan.pools[0].axis == "s"
        self._partial: Tensor | None = None
        self._n_taken = 0

    def reduced(self, acts: Tensor, rows: Ranges, mask: NDArray[np.bool_]) -> Tensor:
        """What is needed of some documents' rows of one layer; where it can be, pooled."""
        return self._pool_tokens(acts, rows, mask) if self.tokens_first else acts

    def take(
        self, layer: int, positions: Positions, acts: Tensor, rows: Ranges, mask: NDArray[np.bool_]
    ) -> None:
        """Go on with what `reduced` made."""
        if layer not in self.plan.layers:
            return
        if self._layer_kind is None:
            index = self.plan.layers.index(layer) if self._source.has_layers else 0
            self._put(index, positions, acts)
            return
        self._add_layer(acts)
        if self._n_taken == len(self.plan.layers):
            pooled = self._finished_layers()
            if not self.tokens_first:
                pooled = self._pool_tokens(pooled, rows, mask)
            self._put(0, positions, pooled)

    def _pool_tokens(self, acts: Tensor, rows: Ranges, mask: NDArray[np.bool_]) -> Tensor:
        """`[document, unit]` float32, if the plan pools tokens."""
        kind = self.plan.pool("s")
        return acts if kind is None else pool_documents(acts, rows.offsets, mask, kind)

    def _add_layer(self, acts: Tensor) -> None:
        """Fold one more layer in, in float32."""
        self._n_taken += 1
        if self._partial is None:
            self._partial = acts.float().clone()
        elif self._layer_kind == "max":
            torch.maximum(self._partial, acts.float(), out=self._partial)
        else:
            self._partial += acts

    def _finished_layers(self) -> Tensor:
        """What was folded; the next block starts anew."""
        assert self._partial is not None
        folded, n_taken = self._partial, self._n_taken
        self._partial, self._n_taken = None, 0
        return folded.div_(n_taken) if self._layer_kind == "mean" else folded

    def _put(self, layer: int, positions: Positions, acts: Tensor) -> None:
        """Deliver in the type that was asked for."""
        cast = acts.to(self._delivered)
        if cast.dtype == torch.float16 and acts.dtype != torch.float16:
            overflown = (cast.isinf() & acts.isfinite()).any(1)
            if overflown.any():
                raise UserError(
                    f"cast: {self._named(layer, positions, int(overflown.nonzero()[0]))} is beyond "
                    "the range of float16. Use bfloat16 or float32."
                )
        self._sink.put(layer, positions, cast)

    def _named(self, layer: int, positions: Positions, row: int) -> str:
        """Says where a value is: the layer, and the document whose row it lies in."""
        source, documents = self._source, self.plan.chosen(self._source)[positions]
        tokens_left = "s" in self.plan.dims(source)
        lengths = source.lengths[documents] if tokens_left else np.ones_like(documents)
        document = documents[np.searchsorted(np.cumsum(lengths), row, side="right")]
        pooled = self._layer_kind is not None
        of = "layers" if pooled else f"layer {self.plan.layers[layer]}"
        which = f" {', '.join(map(str, self.plan.layers))}" if pooled else ""
        return f"a value of {of}{which}, document {source.document_ids[document]},"


def run_plans(source: Source, plans: Sequence[Plan], sinks: Sequence[Sink]) -> None:
    """Carry out plans over the same documents in one pass over the source."""
    description = source.description
    jobs = [Job(plan, description, sink) for plan, sink in zip(plans, sinks, strict=True)]
    wanted = wanted_by(source, plans)
    masks = _Masks(source, wanted)

    @one_thread()
    def reduce(positions: Positions, acts: Tensor) -> list[Tensor]:
        rows, mask = masks.at(positions)
        return [job.reduced(acts, rows, mask) for job in jobs]

    @one_thread()
    def take(layer: int, positions: Positions, found: list[Tensor]) -> None:
        rows, mask = masks.at(positions) if late else (wanted.ranges, NOTHING)
        for job, acts in zip(jobs, found, strict=True):
            job.take(layer, positions, acts, rows, mask)

    late = any(not job.tokens_first for job in jobs)
    source.scan(wanted, reduce, take)


class _Masks:
    """Ranges and mask of positions; layers that come together share what is read once."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self._source, self._wanted = source, wanted
        self._held: tuple[Positions, Ranges, NDArray[np.bool_]] | None = None

    def at(self, positions: Positions) -> tuple[Ranges, NDArray[np.bool_]]:
        """The rows of some positions, and which of them are read."""
        if self._held is None or self._held[0] is not positions or not self._wanted.together:
            rows = self._wanted.ranges.at(positions)
            masked = self._wanted.masked
            mask = self._source.mask(rows) if masked else np.ones(rows.n_rows, dtype=np.bool_)
            self._held = positions, rows, mask
        return self._held[1:]


def wanted_by(
    source: Source, plans: Sequence[Plan], find: Callable[[Source, Ranges], Ranges] | None = None
) -> Wanted:
    """What plans over the same documents read; `find` finds the last rows, reading the mask."""
    everything = whole(source.description, plans[0].chosen(source.description))
    last = only_last(plans)
    layers = sorted({layer for plan in plans for layer in plan.layers})
    tokens_left = any("s" in plan.dims(source.description) for plan in plans)
    return Wanted(
        ranges=(find or last_rows)(source, everything) if last else everything,
        layers=layers if source.description.has_layers else layers[:1],
        masked=not last and any(plan.pool("s") is not None for plan in plans),
        together=any(plan.pool("l") is not None for plan in plans),
        n_searched=everything.n_rows if last or tokens_left else 0,
        unpooled=not all(plan.pools and plan.pools[0].axis == "s" for plan in plans),
    )


def expect(source: Source, plan: Plan) -> None:
    """Say that a plan follows soon, so that its rows are fetched in the background."""
    if plan.pool("s") != "last":  # whose rows are few, and not known yet
        source.expect(wanted_by(source, [plan]))


def only_last(plans: Sequence[Plan]) -> bool:
    """Whether no plan needs more than each document's last token."""
    return all(plan.pool("s") == "last" for plan in plans)


def last_rows(source: Source, ranges: Ranges) -> Ranges:
    """Each document's last row of mask 1; none where it has none. Reads the mask in blocks."""
    first = np.zeros(len(ranges), dtype=np.int64)
    lengths = np.zeros(len(ranges), dtype=np.int64)
    for positions in blocks_of(ranges):
        some = ranges.at(positions)
        mask = source.mask(some)
        for position, start, stop in zip(
            positions, some.offsets[:-1], some.offsets[1:], strict=True
        ):
            kept = np.flatnonzero(mask[start:stop])
            if len(kept):
                first[position] = ranges.first[position] + kept[-1]
                lengths[position] = 1
    return Ranges(ranges.documents, first, lengths)


class TensorSink:
    """Results in memory, `[document, (layer), (token), unit]`, padded with 0."""

    def __init__(self, plan: Plan, source: Description) -> None:
        """Make room for all of it."""
        dims, chosen = plan.dims(source), plan.chosen(source)
        self.lengths = source.lengths[chosen] if "s" in dims else np.ones(len(chosen), np.int64)
        sizes = {
            "b": len(chosen),
            "l": len(plan.layers),
            "s": int(self.lengths.max(initial=0)),
            "h": source.n_units,
        }
        self._dims = dims
        shape = [sizes[axis] for axis in dims]
        device = plan.device or source.device
        self.tensor = _empty(shape, plan.delivered(source), device)
        if "s" in dims:
            with one_thread():
                for row, length in zip(self.tensor, self.lengths.tolist(), strict=True):
                    row[..., length:, :] = 0

    def place(self, layer: int) -> Tensor:
        """Where the results of one layer go, `[document, (token), unit]`."""
        return self.tensor[:, layer] if "l" in self._dims else self.tensor

    def put(self, layer: int, positions: Positions, acts: Tensor) -> None:
        """Copy results to their place."""
        place = self.place(layer)
        if "s" not in self._dims:
            place[torch.from_numpy(positions).to(place.device)] = acts.to(place.device)
            return
        lengths = self.lengths[positions].tolist()
        pieces = torch.split(acts, lengths)
        for position, length, piece in zip(positions.tolist(), lengths, pieces, strict=True):
            place[position, :length] = piece


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor to be filled.

    On the CPU numpy allocates it, in huge pages where the system allows: for a batch of 12 MB that
    saves 3,000 page faults, a third of the time that reading it from the page cache takes.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or n_bytes == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(n_bytes, dtype=np.uint8)).view(dtype).view(shape)


def mask_of(source: Source, plan: Plan) -> Tensor:
    """`[document, token]` bool, the mask of a result that has tokens; padding is 0."""
    ranges = whole(source.description, plan.chosen(source.description))
    inside = np.arange(ranges.lengths.max(initial=0)) < ranges.lengths[:, None]
    mask = np.zeros(inside.shape, dtype=np.bool_)
    mask[inside] = source.mask(ranges)
    return torch.from_numpy(mask).to(plan.device or source.description.device)


def document_count(plan: Plan, source: Description) -> int:
    """Documents of the result."""
    return source.n_documents if plan.documents is None else len(plan.documents)
