"""Tokens of documents, in the forms in which users have them, as rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.acts.plan import numbers_of
from sdlms.errors import UserError
from sdlms.storage.rows import Rows

NO_TOKENS = "tokens: a list of token ids is needed for each document."
NO_MASK = "attention_mask: a list of 0 and 1 is needed for each document."


def rows_of(tokens: "Rows | Mapping[str, Any] | Sequence[Sequence[int]]") -> Rows:
    """Tokens in any of the forms they come in.

    Args:
        tokens: what a capture run holds; what a tokenizer of transformers returns (`input_ids`,
            and `attention_mask` where it padded); or a list of token ids for each document.

    Raises:
        UserError: they are no lists of token ids, or ids and mask do not fit together.
    """
    if isinstance(tokens, Rows):
        return tokens
    if isinstance(tokens, Mapping):
        pieces = _unpadded(tokens)
    else:
        pieces = [_token_ids(row) for row in _documents(tokens)]
    lengths = [len(piece) for piece in pieces]
    flat = np.concatenate([np.empty(0, dtype=np.int32), *pieces]).astype(np.int32)
    return Rows(
        ids=flat,
        mask=np.ones(len(flat), dtype=np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[str(i) for i in range(len(pieces))],
        document_tasks=[""] * len(pieces),
    )


def _unpadded(tokens: Mapping[str, Any]) -> list[NDArray[np.int32]]:
    """The ids of each document that a tokenizer did not add to fill up a batch."""
    if "input_ids" not in tokens:
        raise UserError(f"tokens hold {', '.join(tokens)}; input_ids are needed.")
    pieces = [_token_ids(row) for row in _documents(tokens["input_ids"])]
    mask = tokens.get("attention_mask")
    if mask is None:
        return pieces
    kept = [numbers_of(row).astype(bool) for row in _documents(mask, NO_MASK)]
    if [row.shape for row in kept] != [piece.shape for piece in pieces]:
        raise UserError("attention_mask and input_ids have different shapes.")
    return [piece[row] for piece, row in zip(pieces, kept, strict=True)]


def _documents(tokens: object, otherwise: str = NO_TOKENS) -> list[object]:
    """What there is of each document; `otherwise` is what to say where they are no list."""
    try:
        return list(tokens)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise UserError(otherwise) from None


def _token_ids(row: object) -> NDArray[np.int32]:
    """One document's ids; one that no model can know becomes -1."""
    ids = numbers_of(row)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise UserError(NO_TOKENS)
    return np.where((ids >= 0) & (ids < 2**31), ids, -1).astype(np.int32)
