"""Say in words what a plan will do, what it will read, and how much memory that takes."""

from collections.abc import Iterator

import numpy as np
import torch

from sdlms.acts.description import Ranges
from sdlms.acts.execution import document_count, wanted_by
from sdlms.acts.plan import Plan
from sdlms.acts.sources import Cost, Source, Wanted
from sdlms.progress import readable_bytes

WIDTH = 10


def cost_of(source: Source, plan: Plan) -> tuple[Wanted, Cost]:
    """What `realize` would read and hold, without reading anything.

    Where the last token of a document is wanted, a row is counted for each document.
    """
    wanted = wanted_by(source, [plan], _one_row_each)
    return wanted, source.cost(wanted)


def _one_row_each(_: Source, ranges: Ranges) -> Ranges:
    """Stands for the last rows, wherever they are."""
    lengths = np.minimum(ranges.lengths, 1)
    return Ranges(ranges.documents, ranges.lengths - lengths, lengths)


def result_shape(source: Source, plan: Plan) -> tuple[int, ...]:
    """The shape that `realize` would give."""
    description = source.description
    chosen = plan.chosen(description)
    sizes = {
        "b": len(chosen),
        "l": len(plan.layers),
        "s": int(description.lengths[chosen].max(initial=0)),
        "h": description.n_units,
    }
    return tuple(sizes[axis] for axis in plan.dims(description))


def result_bytes(source: Source, plan: Plan) -> int:
    """The size of what `realize` would give."""
    n_values = int(np.prod(result_shape(source, plan), dtype=np.int64))
    return n_values * plan.delivered(source.description).itemsize


def peak_bytes(source: Source, plan: Plan) -> int:
    """What `realize` would hold at most, result and all, beside what is held already."""
    _, cost = cost_of(source, plan)
    peak = cost.buffer_bytes + result_bytes(source, plan)
    if plan.pools and plan.pools[0].axis == "l":  # one sum in float32, and one layer to add
        peak += 2 * cost.block_rows * source.description.n_units * torch.float32.itemsize
    return peak


def explain_plan(source: Source, plan: Plan) -> str:
    """The plan, one step a line; the same text for the same plan on every machine."""
    return "\n".join(f"{name:<{WIDTH}}{text}" for name, text in _lines(source, plan))


def _lines(source: Source, plan: Plan) -> Iterator[tuple[str, str]]:
    """What is done, in order."""
    description = source.description
    tokens = f", {int(description.lengths.sum()):,} tokens" if description.has_tokens else ""
    layers = f"{len(description.layers)} layers, " if description.has_layers else ""
    yield (
        "source",
        f"{source.place}: {description.dims}, {layers}{description.n_documents:,} documents"
        f"{tokens}, {description.n_units} units, {_name(description.dtype)}",
    )
    if plan.layers != description.layers or plan.one_layer:
        yield "layers", ", ".join(str(layer) for layer in plan.layers)
    if plan.documents is not None:
        yield "documents", f"{document_count(plan, description):,}{_token_count(source, plan)}"
    for pool in plan.pools:
        yield "pool", f"{pool}, in float32, as it is read"
    if plan.dtype is not None:
        yield "cast", _name(plan.dtype)
    if plan.device is not None:
        yield "device", str(plan.device)
    yield from _costs(source, plan)


def _costs(source: Source, plan: Plan) -> Iterator[tuple[str, str]]:
    """Result, way through the source, bytes and memory."""
    wanted, cost = cost_of(source, plan)
    shape, dtype = result_shape(source, plan), plan.delivered(source.description)
    yield (
        "result",
        f"{plan.dims(source.description)} {list(shape)} {_name(dtype)}, "
        f"{readable_bytes(result_bytes(source, plan))}",
    )
    if cost.forward_tokens:
        yield "forward", f"one pass over {cost.forward_tokens:,} tokens, every layer in it"
    elif cost.bytes_read:
        order = "block by block, all layers of it" if wanted.together else "layer by layer"
        yield "read", f"{cost.bytes_read:,} bytes, {order}"
    yield "peak", readable_bytes(peak_bytes(source, plan))


def _token_count(source: Source, plan: Plan) -> str:
    """Tokens of the documents that are read."""
    if not source.description.has_tokens:
        return ""
    return f" ({int(source.description.lengths[plan.chosen(source.description)].sum()):,} tokens)"


def _name(dtype: object) -> str:
    """A type as files spell it."""
    return str(dtype).removeprefix("torch.")
