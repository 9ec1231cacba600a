"""What a network sees at once: a batch, or as much of it as fits into memory."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.models.batching import is_out_of_memory

Result = TypeVar("Result")
# A document, and how many columns of a result belong to it.
Column = tuple[int, int]

# Numbers in the largest intermediate result, [member, hidden unit, token]: 128 MiB in float32. It
# bounds the memory whatever the number of layers, seeds and labels, and is far more than the
# products need to run at full speed.
CELLS = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Neighbouring examples `first:last` of a batch.

    Attributes:
        x: `[layer, example, unit]`, or `[layer, document, token, unit]` with a mask; float32.
            Where the mask is 0, x must be finite.
        mask: `[document, token]` bool, or None.
        documents: `[example]` int64, the document of each.
        first: where the examples begin in their batch.
    """

    x: Tensor
    mask: Tensor | None
    documents: NDArray[np.int64]
    first: int = 0

    @property
    def span(self) -> slice:
        """Where the examples lie in their batch."""
        return slice(self.first, self.first + len(self.documents))

    @cached_property
    def counts(self) -> list[int]:
        """Mask-1 tokens of each document."""
        return [int(n) for n in self._required_mask.sum(dim=1)]

    @cached_property
    def where(self) -> Tensor:
        """`[mask-1 token]` int64, position in the flattened `[document * token]`."""
        return self._required_mask.flatten().nonzero()[:, 0]

    @property
    def document_columns(self) -> list[Column]:
        """One column for each document."""
        return [(document, 1) for document in self.documents.tolist()]

    @property
    def token_columns(self) -> list[Column]:
        """One column for each mask-1 token."""
        return list(zip(self.documents.tolist(), self.counts, strict=True))

    def rows(self, layers: list[int]) -> Tensor:
        """`[len(layers), row, unit]`: the examples, or the mask-1 tokens one after another."""
        x = self.x if len(layers) == len(self.x) else self.x[layers]
        if self.mask is None:
            return x
        return x.flatten(1, 2).index_select(1, self.where)

    def padded(self, values: Tensor, fill: float) -> Tensor:
        """Spread `[..., mask-1 token]` to `[..., document, token]`, `fill` where the mask is 0."""
        mask = self._required_mask
        empty = values.new_full((*values.shape[:-1], mask.numel()), fill)
        return empty.index_copy(-1, self.where, values).view(*values.shape[:-1], *mask.shape)

    @property
    def _required_mask(self) -> Tensor:
        if self.mask is None:
            raise ValueError("this piece has no tokens: its x is [layer, example, unit]")
        return self.mask


class Sliceable(Protocol):
    """What can be cut into pieces; everything as in `Piece`."""

    @property
    def x(self) -> Tensor:
        """Activations."""

    @property
    def mask(self) -> Tensor | None:
        """Mask, where there are tokens."""

    @property
    def documents(self) -> NDArray[np.int64]:
        """The document of each example."""


def cut(examples: Sliceable, first: int, last: int) -> Piece:
    """Examples `first:last` of a batch; views, nothing is copied."""
    mask = None if examples.mask is None else examples.mask[first:last]
    return Piece(examples.x[:, first:last], mask, examples.documents[first:last], first)


class Room:
    """How much is computed at once: halved whenever memory runs out, for good.

    Attributes:
        most: the most examples at once; None until memory has run out.
    """

    def __init__(self, on_halved: Callable[[int], None]) -> None:
        self.most: int | None = None
        self._on_halved = on_halved

    def run(
        self, examples: Sliceable, cells: int, compute: Callable[[Piece], Result]
    ) -> Iterator[Result]:
        """Compute one piece of a batch after another.

        Args:
            examples: the batch.
            cells: numbers that `compute` holds for each token: members x hidden units.
            compute: must not depend on how the batch is cut; only its failures are caught.

        Raises:
            UserError: a single example does not fit.
        """
        n_examples = len(examples.documents)
        n_tokens = 1 if examples.mask is None else examples.mask.shape[1]
        at_once = max(1, CELLS // (cells * n_tokens))
        first = 0
        while first < n_examples:
            at_once = at_once if self.most is None else min(at_once, self.most)
            last = min(first + at_once, n_examples)
            try:
                result = compute(cut(examples, first, last))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                result = None
            if result is None:
                # Outside the handler: its traceback would keep the tensors that filled the memory.
                self._halve(last - first)
                continue
            yield result
            first = last

    def _halve(self, n_examples: int) -> None:
        """Free what can be freed, and allow half of what failed."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if n_examples == 1:
            raise UserError(
                "out of memory on the tokens of a single document. Train fewer layers, seeds or "
                "labels at once, or shorten the documents."
            )
        self.most = n_examples // 2
        self._on_halved(self.most)
