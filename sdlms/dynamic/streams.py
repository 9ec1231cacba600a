"""Documents packed into one stream of tokens, tokenised no further than they are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.models.tokens import CHUNK_DOCUMENTS, Text, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Stream(NamedTuple):
    """Tokens of a task's documents, one document after another.

    Attributes:
        ids: `[token]` int64.
        scored: `[token]` bool, false for special tokens: a model need not predict these.
        document: `[token]` int64, which of the task's documents each belongs to.
    """

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]
    document: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of one task; each is tokenised whole, once, when it is first read.

    Attributes:
        task: its name.
        texts: its documents.
        tokenizer: adds the special tokens that the model expects.
    """

    task: str
    texts: Sequence[Text]
    tokenizer: "PreTrainedTokenizerBase"
    _known: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def in_order(self, order: Sequence[int]) -> Iterator[Stream]:
        """Each document as a stream of its own, after an end-of-text token.

        A tokenizer that has no such token, or that marks documents itself, adds none here.

        Args:
            order: documents; a chunk of them is tokenised at a time.
        """
        special = np.array(sorted(special_ids(self.tokenizer)), dtype=np.int64)
        for first in range(0, len(order), CHUNK_DOCUMENTS):
            chunk = order[first : first + CHUNK_DOCUMENTS]
            self._tokenize([document for document in chunk if document not in self._known])
            for document in chunk:
                ids = self._separated(self._known[document], special)
                yield Stream(ids, ~np.isin(ids, special), np.full(len(ids), document))

    def _tokenize(self, documents: Sequence[int]) -> None:
        """Make the ids of some documents known; long ones are not cut."""
        if not documents:
            return
        texts = [self.texts[document].text for document in documents]
        for document, ids in zip(
            documents, self.tokenizer(texts, verbose=False)["input_ids"], strict=True
        ):
            self._known[document] = np.array(ids, dtype=np.int64)

    def _separated(self, ids: NDArray[np.int64], special: NDArray[np.int64]) -> NDArray[np.int64]:
        """A document's ids with a mark where it begins or ends."""
        end = self.tokenizer.eos_token_id
        if end is None or np.isin(ids[:1], special).any() or np.isin(ids[-1:], special).any():
            return ids
        return np.concatenate([[end], ids])


def read_documents(
    tokenizer: "PreTrainedTokenizerBase", tasks: Sequence[Sequence[Text]]
) -> list[Documents]:
    """The documents of each task, not yet tokenised.

    Args:
        tokenizer: of the model that will read them.
        tasks: each task's documents, at least one.
    """
    return [Documents(texts[0].task, texts, tokenizer) for texts in tasks]


def packed(documents: Iterator[Stream], n_scored: int) -> Stream:
    """One document after another until `n_scored` tokens can be scored, or there are no more.

    Args:
        documents: read no further than needed; what is left of the last one is dropped.
        n_scored: none are read for 0.
    """
    pieces: list[Stream] = []
    missing = n_scored
    while missing > 0 and (piece := next(documents, None)) is not None:
        n_taken = int(np.searchsorted(np.cumsum(piece.scored), missing)) + 1
        pieces.append(Stream(piece.ids[:n_taken], piece.scored[:n_taken], piece.document[:n_taken]))
        missing -= int(pieces[-1].scored.sum())
    if not pieces:
        return Stream(np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.int64))
    return Stream(
        ids=np.concatenate([piece.ids for piece in pieces]),
        scored=np.concatenate([piece.scored for piece in pieces]),
        document=np.concatenate([piece.document for piece in pieces]),
    )
