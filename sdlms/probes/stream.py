"""Tensors and Acts as blocks of examples that can be read again: documents, or mask-1 tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError

# Examples at once; a document is never divided.
BLOCK_EXAMPLES = 8192


@dataclass(frozen=True)
class Block:
    """Some of the examples.

    Attributes:
        x: `[example, unit]` float32, finite, on the CPU.
        documents: `[example]` int64, the document of each, ascending.
        tokens: `[example]` int64, its place in the document; None where documents are examples.
    """

    x: Tensor
    documents: Tensor
    tokens: Tensor | None


class ExampleStream:
    """The examples of a tensor or of Acts, the same ones in the same order on every pass.

    Attributes:
        n_documents: documents, those without a mask-1 token too.
        n_units: units of every example.
        n_tokens: places in the longest document; None where documents are examples.
    """

    def __init__(self, x: Tensor | Acts, mask: Tensor | None = None) -> None:
        """Read nothing yet.

        Args:
            x: `[document, unit]`, or `[document, token, unit]`; Acts with one layer.
            mask: `[document, token]` 0 or 1, needed exactly for a tensor with tokens; Acts have
                their own, and lose the tokens that are 0 here.

        Raises:
            ValueError: axes or shapes that do not fit together.
        """
        if isinstance(x, Tensor):
            _require_tensor(x, mask)
            self.n_documents, self.n_units = len(x), x.shape[-1]
            self.n_tokens: int | None = x.shape[1] if x.ndim == 3 else None
        else:
            _require_one_layer(x)
            self.n_documents, self.n_units = x.n_documents, x.n_units
            self.n_tokens = int(x.lengths.max(initial=0)) if "s" in x.dims else None
        self._x, self._mask = x, None if mask is None else mask.bool().cpu()
        expected = (self.n_documents, self.n_tokens)
        if self._mask is not None and tuple(self._mask.shape) != expected:
            raise ValueError(f"mask {tuple(self._mask.shape)}, expected {expected}")

    def blocks(self) -> Iterator[Block]:
        """One pass over the examples.

        Raises:
            UserError: an activation of mask 1 is NaN or infinite.
        """
        at_once = max(1, BLOCK_EXAMPLES // (self.n_tokens or 1))
        for first, (x, mask) in zip(
            range(0, self.n_documents, at_once), self._parts(at_once), strict=True
        ):
            block = self._block(x, mask, first)
            self._require_finite(block)
            yield block

    def _parts(self, at_once: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Some documents at a time, with the mask that the activations have of their own."""
        if isinstance(self._x, Tensor):
            # Of no documents torch makes one part without any.
            yield from ((part, None) for part in torch.split(self._x, at_once) if len(part))
        else:
            yield from ((part.tensor, part.mask) for part in self._x.iter_batches(at_once))

    def _block(self, x: Tensor, mask: Tensor | None, first: int) -> Block:
        if self.n_tokens is None:
            return Block(x.to("cpu", torch.float32), torch.arange(first, first + len(x)), None)
        kept = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
        if self._mask is not None:
            kept = kept & self._mask[first : first + len(x), : x.shape[1]]
        documents, tokens = kept.nonzero(as_tuple=True)
        chosen = x[documents.to(x.device), tokens.to(x.device)]
        return Block(chosen.to("cpu", torch.float32), documents + first, tokens)

    def _require_finite(self, block: Block) -> None:
        """Sums are cheaper than a look at every number, and cannot hide one that is not finite."""
        if bool(block.x.sum(dim=1).isfinite().all()):
            return
        wrong = block.documents[~block.x.isfinite().all(dim=1)].tolist()
        if wrong:
            if isinstance(self._x, Tensor):
                raise not_finite(wrong[0])
            raise not_finite(wrong[0], self._x.document_ids[wrong[0]], self._x.layers)

    def whole(self) -> Tensor:
        """All examples, `[example, unit]` float32; the only method that holds them at once."""
        return torch.cat([block.x for block in self.blocks()])

    def labelled(self, y: Tensor | Sequence[bool]) -> Tensor:
        """Truth of each document, or of each token.

        Args:
            y: `[document]`, or `[document, token]` where there are tokens; bool or 0 and 1.

        Returns:
            The same as bool, on the CPU.

        Raises:
            ValueError: another shape, or other numbers.
        """
        given = torch.as_tensor(y).cpu()
        truth = given.bool()
        allowed = {(self.n_documents,), (self.n_documents, self.n_tokens)}
        if tuple(given.shape) not in allowed:
            raise ValueError(f"y {tuple(given.shape)}, expected one of {sorted(allowed, key=len)}")
        if not bool((truth == given).all()):
            raise ValueError("y must be bool, or 0 and 1")
        return truth

    def padded(self, parts: list[Tensor]) -> Tensor:
        """Values of the examples at their places.

        Args:
            parts: `[example]` float32 of each block, in the order of `blocks`.

        Returns:
            `[document]` float32; `[document, token]` where there are tokens, NaN where the mask
            is 0.
        """
        values = torch.cat(parts) if parts else torch.zeros(0)
        if self.n_tokens is None:
            return values
        places = torch.ones(self.n_documents, self.n_tokens, dtype=torch.bool)
        if isinstance(self._x, Acts) and self._x.mask is not None:
            places = self._x.mask.cpu()
        if self._mask is not None:
            places = places & self._mask
        result = torch.full(places.shape, float("nan"))
        result[places] = values
        return result


def not_finite(
    document: int, document_id: str | None = None, layers: Sequence[int] = ()
) -> UserError:
    """What to say of an activation that is no number.

    Args:
        document: its index.
        document_id: of the document, where it has one.
        layers: of the activation.
    """
    numbers = ", ".join(str(layer) for layer in layers)
    name = "" if document_id is None else f" ('{document_id}', layer {numbers})"
    return UserError(
        f"an activation of document {document}{name} is NaN or infinite. "
        "Leave the document out, or capture it again."
    )


def truth_of(block: Block, truth: Tensor) -> Tensor:
    """`[example]` bool, the truth of a block's examples.

    Args:
        block: some examples.
        truth: `[document]` or `[document, token]` bool.
    """
    if truth.ndim == 1:
        return truth[block.documents]
    if block.tokens is None:
        raise ValueError("truth has tokens, the examples have none")
    return truth[block.documents, block.tokens]


def _require_tensor(x: Tensor, mask: Tensor | None) -> None:
    if x.ndim not in (2, 3) or not x.is_floating_point():
        raise ValueError(f"x {tuple(x.shape)} must be [document, unit] or [document, token, unit]")
    if (x.ndim == 3) != (mask is not None):
        raise ValueError("a mask is needed exactly where x is [document, token, unit]")


def _require_one_layer(acts: Acts) -> None:
    if acts.dims not in ("bh", "bsh"):
        raise ValueError(
            f"a probe reads one layer, but these activations have dims '{acts.dims}': "
            "choose it with select_layers(layer)"
        )
