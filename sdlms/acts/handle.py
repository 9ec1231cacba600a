"""Acts: activations as a lazy handle. Operations are noted; work is done where it is asked for."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.cache import cached, spilled
from sdlms.acts.description import Description
from sdlms.acts.execution import document_count, expect, mask_of
from sdlms.acts.explain import explain_plan, result_shape
from sdlms.acts.file_source import FileSource
from sdlms.acts.plan import (
    Axis,
    Plan,
    Pool,
    with_device,
    with_documents,
    with_dtype,
    with_layers,
    with_pool,
)
from sdlms.acts.realizing import realized
from sdlms.acts.saving import result_header, save_plan
from sdlms.acts.sources import Source, TensorSource, tensor_source
from sdlms.errors import UserError
from sdlms.numerics.pooling import PoolKind
from sdlms.storage.row_file import find_rows


class Acts:
    """Activations of documents, read when they are needed and no sooner.

    Every operation returns a new handle at once. `realize`, `save`, `cache`, `iter_batches` and
    `iter_layers` do the work, and only as much of it as their result needs.

        acts = load_acts("latest").select_layers(2).mean_pool()
        acts.explain()                   # what would be read
        acts.realize().tensor            # [document, unit] float32

    Axes are letters, always in this order: b document, l layer, s token, h unit. Values are pooled
    in float32, whatever they are stored in; `cast` says how results are delivered.
    """

    def __init__(
        self,
        tensor: Tensor | NDArray[Any],
        dims: str,
        mask: Tensor | NDArray[Any] | Sequence[Sequence[int]] | None = None,
        layers: Sequence[int] | None = None,
        documents: Sequence[str] | None = None,
    ) -> None:
        """Take activations that are in memory already; nothing is copied.

        Args:
            tensor: float16, bfloat16 or float32, one axis per letter of `dims`; or a numpy array.
            dims: `bh`, `bsh`, `blh` or `blsh`.
            mask: `[document, token]`, 1 where statistics read; needed exactly when there are
                tokens. What lies behind a document's last 1 is padding, and is not kept.
            layers: the numbers of the axis l; 0, 1, … where nobody says.
            documents: their ids; 0, 1, … where nobody says.

        Raises:
            UserError: something does not fit together.
        """
        self._source: Source = tensor_source(tensor, dims, mask, layers, documents)
        self._plan = Plan(self._source.description.layers)

    @classmethod
    def _of(cls, source: Source, plan: Plan | None = None) -> Self:
        """A handle over a source."""
        acts = cls.__new__(cls)
        acts._source = source
        acts._plan = Plan(source.description.layers) if plan is None else plan
        return acts

    def _then(self, step: Callable[[Plan, Description], Plan]) -> "Acts":
        """A new handle with one more operation."""
        return Acts._of(self._source, step(self._plan, self._source.description))

    @property
    def dims(self) -> str:
        """The axes of the result."""
        return self._plan.dims(self._source.description)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result, padded to its longest document."""
        return result_shape(self._source, self._plan)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the result."""
        return self._plan.delivered(self._source.description)

    @property
    def site(self) -> str:
        """Where in the model they were recorded."""
        return self._source.description.site

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the axis l; without it the one layer, or those that were pooled."""
        return self._plan.layers

    @property
    def n_documents(self) -> int:
        """Documents of the result."""
        return document_count(self._plan, self._source.description)

    @property
    def n_units(self) -> int:
        """Units of the result."""
        return self._source.description.n_units

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[document]` tokens of each document, masked ones too; 1 where tokens were pooled."""
        description = self._source.description
        chosen = self._plan.chosen(description)
        return description.lengths[chosen] if "s" in self.dims else np.ones(len(chosen), np.int64)

    @property
    def document_ids(self) -> list[str]:
        """Each document's id."""
        known = self._source.description.document_ids
        return [known[i] for i in self._plan.chosen(self._source.description)]

    @property
    def document_tasks(self) -> list[str]:
        """Each document's task; empty where nobody said."""
        known = self._source.description.document_tasks
        return [known[i] for i in self._plan.chosen(self._source.description)]

    @property
    def pools(self) -> tuple[str, ...]:
        """How they were pooled, in order: `mean s`, `max l`; what was loaded pooled, too."""
        return result_header(self._source.description, self._plan).pools

    @property
    def is_realized(self) -> bool:
        """Whether the values are in memory, with nothing left to do."""
        return self._in_memory is not None

    @property
    def _in_memory(self) -> TensorSource | None:
        """The tensor, if nothing is left to do with it."""
        source = self._source
        done = isinstance(source, TensorSource) and self._plan.is_nothing(source.description)
        return source if isinstance(source, TensorSource) and done else None

    @property
    def tensor(self) -> Tensor:
        """The values, with the axes of `dims`; padding is 0.

        Raises:
            UserError: they are not in memory.
        """
        if self._in_memory is None:
            raise UserError("these activations are not in memory yet. Call realize() first.")
        return self._in_memory.tensor

    @property
    def mask(self) -> Tensor | None:
        """`[document, token]` bool, 1 where statistics read; None without tokens.

        Reads the mask, one byte per token, where it is not in memory.
        """
        if "s" not in self.dims:
            return None
        if self._in_memory is not None:
            return self._in_memory.mask_tensor
        return mask_of(self._source, self._plan)

    def select_layers(self, layers: int | Sequence[int]) -> "Acts":
        """Some layers, by their number in the model; one alone drops the axis."""
        return self._then(lambda plan, source: with_layers(plan, source, layers))

    def select(self, *, layer: int | Sequence[int]) -> "Acts":
        """As `select_layers`, under the name that probelab has for it."""
        return self.select_layers(layer)

    def slice_batch(self, which: slice | Sequence[int] | NDArray[np.integer]) -> "Acts":
        """Some documents, in the order given; negative indices count from the end."""
        return self._then(lambda plan, source: with_documents(plan, source, which))

    def mean_pool(self, dim: Axis = "s") -> "Acts":
        """The mean over tokens of mask 1, or over layers."""
        return self._pool("mean", dim)

    def sum_pool(self, dim: Axis = "s") -> "Acts":
        """The sum over tokens of mask 1, or over layers."""
        return self._pool("sum", dim)

    def max_pool(self, dim: Axis = "s") -> "Acts":
        """The maximum of each unit over tokens of mask 1, or over layers."""
        return self._pool("max", dim)

    def last_pool(self, dim: Axis = "s") -> "Acts":
        """The last token of mask 1; of a file, only these rows are read."""
        return self._pool("last", dim)

    def _pool(self, kind: PoolKind, dim: Axis) -> "Acts":
        return self._then(lambda plan, source: with_pool(plan, source, Pool(kind, dim)))

    def cast(self, dtype: torch.dtype | str) -> "Acts":
        """Deliver results in float16, bfloat16 or float32; pooling stays in float32 until then."""
        return self._then(lambda plan, _: with_dtype(plan, dtype))

    def to(self, device: torch.device | str) -> "Acts":
        """Deliver results on a device."""
        return self._then(lambda plan, _: with_device(plan, device))

    def explain(self) -> str:
        """What will be done, read and held in memory, one step a line."""
        return explain_plan(self._source, self._plan)

    def realize(self) -> "Acts":
        """The same activations in memory; `tensor` and `mask` are there then."""
        return realize_all(self)[0]

    def save(self, path: Path | str) -> "Acts":
        """Write the result to a new file, as it is made, and return a handle that reads it.

        Raises:
            UserError: the file exists or cannot be written, or a value overflows its type.
        """
        save_plan(self._source, self._plan, Path(path))
        return Acts._of(FileSource(find_rows(Path(path)), self.site))

    def cache(self, path: Path | str | None = None) -> "Acts":
        """Keep the result on disk, unless it is there already, and return a handle that reads it.

        Without a path it goes to the user's cache folder (`SDLMS_CACHE`, otherwise
        `~/.cache/sdlms`), under a name made of weights, tokens and files: what was kept of the
        same source with more layers or documents serves this one too.

        Raises:
            UserError: `path` holds something else.
        """
        source, plan = cached(self._source, self._plan, None if path is None else Path(path))
        return Acts._of(source, plan)

    def iter_batches(self, batch_size: int) -> Iterator["Acts"]:
        """The result in memory, some documents at a time, in order; padded batch by batch."""
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise UserError(f"iter_batches: the batch size must be 1, 2, …, got {batch_size}.")
        firsts = range(0, self.n_documents, batch_size)
        return self._batches(self.slice_batch(slice(i, i + batch_size)) for i in firsts)

    def _batches(self, batches: Iterator["Acts"]) -> Iterator["Acts"]:
        """The work of `iter_batches`; while one is worked on, the next is fetched."""
        for batch, following in pairwise(chain(batches, [None])):
            if following is not None:
                expect(following._source, following._plan)
            if batch is not None:
                yield batch.realize()

    def iter_layers(self) -> Iterator[tuple[int, "Acts"]]:
        """Each layer's number and activations, one after another, without the axis l.

        Where tokens are pooled they are in memory; otherwise each is a handle that reads its own
        layer. A model runs once for all of them: what it computes goes through memory when it is
        pooled, and through a file that is deleted afterwards when it is not.
        """
        if "l" not in self.dims:
            raise UserError(f"iter_layers: these activations have dims '{self.dims}', no layers.")
        return self._layers_one_by_one()

    def _layers_one_by_one(self) -> Iterator[tuple[int, "Acts"]]:
        """The work of `iter_layers`."""
        at_once = self._source.all_layers_at_once
        if at_once and "s" in self.dims:
            with spilled(self._source, self._plan) as source:
                whole = Acts._of(source, Plan(self.layers, device=self._plan.device))
                yield from ((layer, whole.select_layers(layer)) for layer in self.layers)
            return
        acts = self.realize() if at_once else self
        for layer in self.layers:
            chosen = acts.select_layers(layer)
            yield layer, chosen if "s" in self.dims else chosen.realize()

    def __repr__(self) -> str:
        state = "in memory" if self.is_realized else "lazy"
        return f"Acts({self.dims} {list(self.shape)}, {self.site}, {state})"


def realize_all(*acts: Acts) -> list[Acts]:
    """Activations in memory; what shares source and documents is made in one pass over them.

    mean, last = realize_all(acts.mean_pool(), acts.last_pool())
    """
    lazy = [a for a in acts if not a.is_realized]
    made = iter(realized([(a._source, a._plan) for a in lazy]))
    return [a if a.is_realized else Acts._of(next(made)) for a in acts]
