"""Documents to tokens: which are kept, how they are cut, which of them statistics may read."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_DOCUMENTS = 256
SPECIAL_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "cls_token_id",
    "sep_token_id",
    "mask_token_id",
)


class Text(NamedTuple):
    """One document to be tokenised."""

    id: str
    task: str
    text: str


@dataclass(frozen=True)
class Tokens:
    """The tokens that were kept.

    Attributes:
        rows: tokens and documents, task by task, each task's documents in seeded order.
        truncated: id of each document that was longer than the context -> tokens cut off.
    """

    rows: Rows
    truncated: dict[str, int]


class _Encoded(NamedTuple):
    """One tokenised document."""

    text: Text
    ids: list[int]
    n_cut: int


@dataclass(frozen=True)
class Budget:
    """Which tokens are kept and which of them statistics read.

    Attributes:
        max_tokens: budget of each task; whole documents until the next would exceed it.
        skip_first: this many positions at the start of each document get mask 0.
        seed: of the order of documents.
        permute: whether each document's tokens are shuffled, a control: `permuted_ids`.
        flag: by which the user set `max_tokens`.
    """

    max_tokens: int
    skip_first: int
    seed: int
    permute: bool = False
    flag: str = "--max-tokens"


def tokenize(
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[Sequence[Text]],
    context: int,
    budget: Budget,
) -> Tokens:
    """Tokenise each task's documents in seeded order until its budget is full.

    Args:
        tokenizer: adds the special tokens that the model expects.
        tasks: the documents of each task; a task's order does not depend on the other tasks.
        context: longest document in tokens; longer ones are cut.
        budget: how much of each task is kept.

    Raises:
        UserError: a task's first document alone exceeds the budget; the longest such is named.
    """
    tokenizer.truncation_side = "right"
    kept: list[_Encoded] = []
    missed: dict[str, int] = {}
    for texts in tasks:
        own, n_wanted = _within_budget(
            tokenizer, _shuffled(texts, budget.seed), context, budget.max_tokens
        )
        kept.extend(own)
        if not own:
            missed[texts[0].task] = n_wanted
    if missed:
        task = max(missed, key=missed.__getitem__)
        raise UserError(
            f"{budget.flag} {budget.max_tokens}: the first document of task '{task}' has "
            f"{missed[task]} tokens. Allow at least that many."
        )
    return _tokens(tokenizer, kept, budget)


def tokenize_all(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Text], context: int
) -> Tokens:
    """Tokenise every document, in the order given."""
    tokenizer.truncation_side = "right"
    everything = Budget(max_tokens=0, skip_first=0, seed=0)
    return _tokens(tokenizer, list(_encoded(tokenizer, texts, context)), everything)


def _tokens(
    tokenizer: "PreTrainedTokenizerBase", kept: Sequence[_Encoded], budget: Budget
) -> Tokens:
    """What was kept, one document after another."""
    ids = np.concatenate([np.array(item.ids, dtype=np.int32) for item in kept])
    offsets = np.concatenate([[0], np.cumsum([len(item.ids) for item in kept])]).astype(np.int64)
    special = np.isin(ids, sorted(special_ids(tokenizer)))
    document_ids = [item.text.id for item in kept]
    if budget.permute:
        ids = permuted_ids(ids, offsets, special, document_ids, budget.seed)
    rows = Rows(
        ids=ids,
        mask=_mask(special, offsets, budget.skip_first),
        offsets=offsets,
        document_ids=document_ids,
        document_tasks=[item.text.task for item in kept],
    )
    return Tokens(rows, {item.text.id: item.n_cut for item in kept if item.n_cut})


def warn_of_truncation(tokens: Tokens) -> None:
    """Log how much of the documents was cut off, if any was."""
    if tokens.truncated:
        rows = tokens.rows
        LOGGER.warning(
            f"{len(tokens.truncated)} of {rows.n_documents:,} documents are longer than the "
            f"context: {sum(tokens.truncated.values()):,} tokens cut off, {rows.n_tokens:,} kept "
            "(in a plain text file blank lines separate documents; one per line: use .jsonl)"
        )


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Ids of special tokens, chat markers among them; not of an unknown word, which is text."""
    marked = {getattr(tokenizer, name) for name in SPECIAL_TOKENS} - {None}
    unknown = {tokenizer.unk_token_id} - marked
    return (set(tokenizer.all_special_ids) | marked) - unknown


def permuted_ids(
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    special: NDArray[np.bool_],
    document_ids: Sequence[str],
    seed: int,
) -> NDArray[np.int32]:
    """Each document's tokens in random order: the same tokens, but no text.

    Special tokens stay where the model expects them. All others move, those of `--skip-first`
    positions among them: what is skipped there is the position, and a head left in order would
    still be text.

    Args:
        ids: `[token]`.
        offsets: `[document + 1]`.
        special: `[token]`, which are special tokens.
        document_ids: with the seed, all that a document's new order depends on.
        seed: any integer from 0.

    Returns:
        `[token]` ids; each document keeps its length and its multiset of tokens.
    """
    permuted = ids.copy()
    for document_id, (first, last) in zip(document_ids, pairwise(offsets.tolist()), strict=True):
        own = first + np.flatnonzero(~special[first:last])
        permuted[own] = _generator(seed, document_id).permutation(ids[own])
    return permuted


def _generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a name only."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _shuffled(texts: Sequence[Text], seed: int) -> list[Text]:
    """A task's documents in an order that depends on the seed and the task's name only."""
    order = _generator(seed, texts[0].task).permutation(len(texts))
    return [texts[index] for index in order]


def _within_budget(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Text], context: int, max_tokens: int
) -> tuple[list[_Encoded], int]:
    """Whole documents until the next would exceed the budget, and the tokens with that one."""
    kept: list[_Encoded] = []
    n_tokens = 0
    for item in _encoded(tokenizer, texts, context):
        n_tokens += len(item.ids)
        if n_tokens > max_tokens:
            break
        kept.append(item)
    return kept, n_tokens


def _encoded(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Text], context: int
) -> Iterator[_Encoded]:
    """Tokenise a chunk at a time, so that a large corpus is read no further than needed."""
    for first in range(0, len(texts), CHUNK_DOCUMENTS):
        chunk = texts[first : first + CHUNK_DOCUMENTS]
        whole = tokenizer([text.text for text in chunk], verbose=False)["input_ids"]
        for text, ids in zip(chunk, whole, strict=True):
            if len(ids) <= context:
                yield _Encoded(text, ids, 0)
                continue
            # Cut by the tokenizer, which keeps its closing special token.
            cut = tokenizer(text.text, truncation=True, max_length=context)["input_ids"]
            yield _Encoded(text, cut, len(ids) - len(cut))


def _mask(
    special: NDArray[np.bool_], offsets: NDArray[np.int64], skip_first: int
) -> NDArray[np.uint8]:
    """1 for tokens that statistics read: neither special nor among the first of a document."""
    mask = ~special
    for first, last in pairwise(offsets.tolist()):
        mask[first : min(first + skip_first, last)] = False
    return mask.astype(np.uint8)


def check_readable(rows: Rows, n_readable: NDArray[np.int64]) -> None:
    """Refuse a task of which statistics could read no token.

    Args:
        rows: tokens and documents.
        n_readable: `[document]` mask-1 tokens of each.

    Raises:
        UserError: all tokens of a task are special or skipped.
    """
    for task in dict.fromkeys(rows.document_tasks):
        own = [own == task for own in rows.document_tasks]
        if not n_readable[own].any():
            raise UserError(
                f"task '{task}': every token is special or skipped. Lower --skip-first or give "
                "longer documents."
            )


def documents_within(lengths: NDArray[np.int64], max_tokens: int, seed: int) -> list[int]:
    """A seeded sample of whole documents of at most `max_tokens` tokens, ascending.

    At least one document, however long; none without tokens.
    """
    order = np.random.default_rng([seed, len(lengths)]).permutation(len(lengths))
    order = order[lengths[order] > 0]
    n_kept = int(np.searchsorted(np.cumsum(lengths[order]), max_tokens, side="right"))
    return sorted(int(document) for document in order[: max(n_kept, 1)])
