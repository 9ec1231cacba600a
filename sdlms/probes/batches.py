"""Activations by batch, layers first, as often as the training asks for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.probes.stream import not_finite


@dataclass(frozen=True)
class Batch:
    """Activations of some documents.

    Attributes:
        documents: `[document]` int64, their indices.
        x: `[layer, document, unit]`, or `[layer, document, token, unit]`; float32, finite.
        mask: `[document, token]` bool where there are tokens, else None.
    """

    documents: NDArray[np.int64]
    x: Tensor
    mask: Tensor | None


class Batches(Protocol):
    """Activations that can be read again and again, in any order."""

    @property
    def n_documents(self) -> int:
        """Documents, numbered from 0."""

    @property
    def n_layers(self) -> int:
        """Layers of every batch."""

    @property
    def n_units(self) -> int:
        """Units of every layer."""

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """`[document]` stored tokens, the mask's zeros included; None for one vector each."""

    def batches(self, groups: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """One batch for each group of documents, in this order."""


class ActsBatches:
    """Acts as batches: a file is read group by group, never as a whole."""

    def __init__(self, acts: Acts) -> None:
        """Read nothing yet.

        Args:
            acts: with or without layers and tokens, in any dtype.
        """
        self._acts = acts.cast(torch.float32)
        self._has_layers = "l" in acts.dims
        self.n_documents = acts.n_documents
        self.n_layers = len(acts.layers) if self._has_layers else 1
        self.n_units = acts.n_units
        self.lengths: NDArray[np.int64] | None = acts.lengths if "s" in acts.dims else None

    def batches(self, groups: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """One batch for each group of documents, in this order.

        Raises:
            UserError: an activation of mask 1 is NaN or infinite; where the mask is 0 it is
                read as 0.
        """
        for documents in groups:
            part = self._acts.slice_batch(documents).realize()
            x = part.tensor
            layers_first = x.transpose(0, 1).contiguous() if self._has_layers else x[None]
            yield Batch(documents, self._finite(layers_first, part.mask, documents), part.mask)

    def _finite(self, x: Tensor, mask: Tensor | None, documents: NDArray[np.int64]) -> Tensor:
        """The same, with 0 for what is no number and is masked.

        A sum is cheaper than a look at every number, and cannot hide one that is not finite.
        """
        if bool(x.sum().isfinite()):
            return x
        if mask is not None:
            x = x.masked_fill(~mask[:, :, None], 0.0)  # 0 times infinity is NaN
        wrong = (~x.isfinite()).flatten(2).any(dim=2).nonzero().tolist()
        if wrong:
            layer, row = wrong[0]
            document = int(documents[row])
            layers = self._acts.layers[layer : layer + 1] if self._has_layers else self._acts.layers
            raise not_finite(document, self._acts.document_ids[document], layers)
        return x
