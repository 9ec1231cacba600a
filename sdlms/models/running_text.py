"""The tokens of a text as it stands inside a longer one.

A tokenizer may treat the beginning of a text in its own way: those in SentencePiece's manner put a
space before its first word. There a text is read behind a neutral one, whose tokens are left out.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokenizers seldom join these with what follows; one that does so with one of them has the others.
NEUTRALS = ("\n", ".", ":", ")")
PROBE = "a"  # one character, so that no merge inside of it hides what is done at a beginning


class TokenSpan(NamedTuple):
    """A token and the characters `[begin, end)` that it stands for."""

    id: int
    begin: int
    end: int


def running_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The tokens of a text inside a document: " Paris" is a word, "Paris" the end of one.

    Args:
        tokenizer: any; one that is not fast cannot say where its tokens stand, and gives those of
            the text alone.
        text: verbatim, the space before a word among it.
    """
    if tokenizer.is_fast:
        return [span.id for span in running_spans(tokenizer, text)]
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [int(token_id) for token_id in ids]


def running_spans(
    tokenizer: "PreTrainedTokenizerBase", text: str, before: str = ""
) -> list[TokenSpan]:
    """The tokens of a text inside a document, and where they stand in it.

    Args:
        tokenizer: a fast one.
        text: what is tokenised.
        before: what stands before it, where that matters; "" for any text.

    Returns:
        Those of the text alone where the tokenizer joins it with all that could stand before it.
    """
    for ahead in (*([before] if before else []), *neutrals_of(tokenizer)):
        found = _behind(tokenizer, ahead, text)
        if found is not None:
            return found
    return spans_alone(tokenizer, text)


def spans_alone(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[TokenSpan]:
    """The tokens of a whole text and where they stand in it.

    Args:
        tokenizer: a fast one.
        text: what is tokenised; no special tokens are added.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [TokenSpan(token_id, begin, end) for token_id, (begin, end) in offsets]


@lru_cache(maxsize=4)
def neutrals_of(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """What a text can be put behind so that the tokenizer does not take it for a beginning.

    Returns:
        The best first; none where a beginning is nothing special.
    """
    alone = [span.id for span in spans_alone(tokenizer, PROBE)]
    found = []
    for neutral in NEUTRALS:
        behind = _behind(tokenizer, neutral, PROBE)
        if behind is not None and [span.id for span in behind] != alone:
            found.append(neutral)
    return tuple(found)


def _behind(tokenizer: "PreTrainedTokenizerBase", before: str, text: str) -> list[TokenSpan] | None:
    """The tokens of a text that stands behind `before`; None where they cannot be told apart."""
    ahead = spans_alone(tokenizer, before)
    spans = spans_alone(tokenizer, before + text)
    first, n_before = len(ahead), len(before)
    is_apart = (
        bool(ahead)
        and [span.id for span in spans[:first]] == [span.id for span in ahead]
        and all(span.end <= n_before for span in spans[:first])
        and all(span.begin >= n_before for span in spans[first:])
    )
    if not is_apart or (text and len(spans) == first):
        return None
    return [TokenSpan(s.id, s.begin - n_before, s.end - n_before) for s in spans[first:]]
