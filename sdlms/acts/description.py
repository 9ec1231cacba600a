"""What activations are of: axes, layers, documents, and where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.storage.activations import Header, StoreDtype

DIMS = ("bh", "bsh", "blh", "blsh")
CPU = torch.device("cpu")
STORE_DTYPES: dict[torch.dtype, StoreDtype] = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
}


@dataclass(frozen=True, eq=False)
class Description:
    """What is known of activations before one of them is read.

    Attributes:
        dims: the axes, of b document, l layer, s token, h unit.
        site: where in the model; `acts` where nobody said.
        layers: of the axis l; without it the one layer, or those that were pooled.
        n_units: the size of h.
        dtype: float16, bfloat16 or float32.
        lengths: `[document]` int64, tokens of each document; 1 where there is no axis s.
        document_ids: of each document.
        document_tasks: of each document, empty where nobody said.
        header: model, revision, control and what was pooled before, as files record it.
        device: where values are, unless they are asked for elsewhere.
    """

    dims: str
    site: str
    layers: tuple[int, ...]
    n_units: int
    dtype: torch.dtype
    lengths: NDArray[np.int64]
    document_ids: Sequence[str]
    document_tasks: Sequence[str]
    header: Header = field(repr=False)
    device: torch.device = CPU

    @property
    def n_documents(self) -> int:
        """The size of b."""
        return len(self.lengths)

    @property
    def has_tokens(self) -> bool:
        """Whether there is an axis s."""
        return "s" in self.dims

    @property
    def has_layers(self) -> bool:
        """Whether there is an axis l."""
        return "l" in self.dims

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """`[document + 1]`, the first row of each document."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Ranges:
    """Rows of some documents, in the order in which they are wanted.

    Attributes:
        documents: `[n]` int64 indices into the source's documents.
        first: `[n]` the first row, counted from the document's first.
        lengths: `[n]` how many rows.
    """

    documents: NDArray[np.int64]
    first: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def n_rows(self) -> int:
        """Rows of all of them."""
        return int(self.lengths.sum())

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """`[n + 1]`, where each range begins when they follow one another."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def at(self, positions: "slice | NDArray[np.int64]") -> "Ranges":
        """Some of the ranges."""
        return Ranges(self.documents[positions], self.first[positions], self.lengths[positions])

    def starts(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """`[n]`, the first row of each range in the source, whose documents begin at `offsets`."""
        starts: NDArray[np.int64] = offsets[self.documents] + self.first
        return starts


def whole(description: Description, documents: NDArray[np.int64]) -> Ranges:
    """Every row of some documents."""
    return Ranges(documents, np.zeros_like(documents), description.lengths[documents])
