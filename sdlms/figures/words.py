"""Find the words around a token: what a run holds by number, in the texts that other runs hold."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.storage.lens_file import LensReader
from sdlms.storage.row_file import IDS, RowFile, find_rows
from sdlms.storage.sparse_acts import find_sparse_rows

LENS = "lens.h5"
TOKENS_BEFORE, TOKENS_AFTER = 40, 30  # more than are drawn


class Context(NamedTuple):
    """A token and the text on both sides of it."""

    before: str
    token: str
    after: str


class Words:
    """Tokens of documents, and the text of each token, as far as some runs hold them."""

    def __init__(self, documents: dict[str, NDArray[np.int32]], lens: Path | None) -> None:
        """Keep what was found.

        Args:
            documents: `[token]` ids of each document, by the document's id.
            lens: a `lens.h5`, which has the vocabulary.
        """
        self._documents, self._lens = documents, lens

    def around(self, places: Sequence[tuple[str, int]]) -> list[Context | None]:
        """The text at some tokens.

        Args:
            places: id of the document and place of the token in it.

        Returns:
            One for each place; None where no run holds the document, or the vocabulary.
        """
        if self._lens is None:
            return [None] * len(places)
        with LensReader(self._lens) as reader:
            return [self._context(reader, *place) for place in places]

    def _context(self, reader: LensReader, document: str, position: int) -> Context | None:
        """One of them."""
        ids = self._documents.get(document)
        if ids is None or not 0 <= position < len(ids):
            return None
        first = max(0, position - TOKENS_BEFORE)
        texts = reader.texts(ids[first : position + 1 + TOKENS_AFTER])
        at = position - first
        return Context("".join(texts[:at]), texts[at], "".join(texts[at + 1 :]))


def words_of(run: Run, beside: Iterable[Run]) -> Words:
    """What runs beside one say of its tokens: those that cut text into tokens as it does.

    Args:
        run: which numbers documents and tokens.
        beside: other runs. Tokens are in a capture's `activations.h5`, in `sparse_acts.h5` and in
            `lens.h5`, of which the last has the texts too.
    """
    documents: dict[str, NDArray[np.int32]] = {}
    lens = None
    for other in beside:
        if not _same_tokens(run, other):
            continue
        documents = _documents_of(other) | documents
        if lens is None and (other.path / LENS).is_file():
            lens = other.path / LENS
    return Words(documents, lens)


def _same_tokens(run: Run, other: Run) -> bool:
    """Whether both have the same tokenizer and read the tokens in the same order."""
    one, two = (each.start.get("resolved", {}) for each in (run, other))
    tokenizers = [(resolved.get("model") or {}).get("tokenizer") for resolved in (one, two)]
    controls = [resolved.get("control", "none") == "permute-tokens" for resolved in (one, two)]
    return bool(tokenizers[0]) and tokenizers[0] == tokenizers[1] and controls[0] == controls[1]


def _documents_of(run: Run) -> dict[str, NDArray[np.int32]]:
    """The tokens that a run holds, by document; none where a file is not what it should be."""
    found: dict[str, NDArray[np.int32]] = {}
    for name, find in (("activations.h5", find_rows), ("sparse_acts.h5", find_sparse_rows)):
        if (run.path / name).is_file():
            with suppress(UserError):
                found |= _read_documents(find(run.path / name))
    if (run.path / LENS).is_file():
        with suppress(UserError), LensReader(run.path / LENS) as lens:
            rows = lens.rows()
            found |= _cut(rows.ids, rows.offsets, rows.document_ids)
    return found


def _read_documents(file: RowFile) -> dict[str, NDArray[np.int32]]:
    """The tokens of a file of activations; none where these were pooled."""
    if IDS not in file.places:
        return {}
    ids = np.empty(int(file.offsets[-1]), dtype=np.int32)
    with file.open() as rows:
        if len(ids):
            rows.read_into(IDS, 0, [ids])
    return _cut(ids, file.offsets, file.document_ids)


def _cut(
    ids: NDArray[np.int32], offsets: NDArray[np.int64], names: Sequence[str]
) -> dict[str, NDArray[np.int32]]:
    """Each document's tokens."""
    pairs = zip(names, pairwise(offsets.tolist()), strict=True)
    return {name: ids[first:last] for name, (first, last) in pairs}
