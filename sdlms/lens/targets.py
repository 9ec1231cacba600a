"""Tokens that a user names by their text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sdlms.errors import UserError
from sdlms.models.running_text import running_ids
from sdlms.models.token_texts import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_PIECES = 8  # that a message shows


class Target(NamedTuple):
    """A token whose probability and rank are wanted everywhere."""

    token_id: int
    text: str


def targets_of(
    tokenizer: "PreTrainedTokenizerBase", d_vocab: int, texts: Sequence[str]
) -> list[Target]:
    """The token of each text, in the order given; one that is named twice counts once.

    Args:
        tokenizer: of the model.
        d_vocab: tokens that the model knows.
        texts: verbatim, the space before a word among them, as they stand inside a document.

    Raises:
        UserError: a text is several tokens or none, or not in the vocabulary.
    """
    found: dict[int, Target] = {}
    for text in texts:
        target = _target_of(tokenizer, d_vocab, text)
        found.setdefault(target.token_id, target)
    return list(found.values())


def _target_of(tokenizer: "PreTrainedTokenizerBase", d_vocab: int, text: str) -> Target:
    """One text."""
    ids = running_ids(tokenizer, text)
    token_id = _known(tokenizer, d_vocab, text, ids)
    if token_id is not None:
        return Target(token_id, text)
    if len(ids) == 1:
        told = "is not in the vocabulary of the model. Name another text."
    else:
        pieces = [repr(token_text(tokenizer, each)) for each in ids[:MOST_PIECES]]
        end = ", …" if len(ids) > MOST_PIECES else "."
        told = f"is {len(ids)} tokens: {', '.join(pieces)}{end}" if ids else "is no token."
        told += " Name a text that is a single token."
    other = text[1:] if text.startswith(" ") else f" {text}"
    is_one = other and _known(tokenizer, d_vocab, other, running_ids(tokenizer, other)) is not None
    hint = f" Did you mean {other!r}?" if is_one else ""
    raise UserError(f"--target {text!r} {told}{hint}")


def _known(
    tokenizer: "PreTrainedTokenizerBase", d_vocab: int, text: str, ids: Sequence[int]
) -> int | None:
    """The token that a text is; None where it is several, none, or not in the vocabulary."""
    if len(ids) != 1 or ids[0] >= d_vocab:
        return None
    is_unknown = ids[0] == tokenizer.unk_token_id and text != tokenizer.unk_token
    return None if is_unknown else ids[0]
