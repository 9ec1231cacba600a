"""Tokens that a user names by their text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sdlms.errors import UserError

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
        texts: verbatim, the space before a word among them.

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
    ids = _ids(tokenizer, text)
    if len(ids) != 1:
        pieces = [repr(tokenizer.decode([token_id])) for token_id in ids[:MOST_PIECES]]
        end = ", …" if len(ids) > MOST_PIECES else "."
        told = f"is {len(ids)} tokens: {', '.join(pieces)}{end}" if ids else "is no token."
        spaced = f" {text}"
        hint = f" Did you mean {spaced!r}?" if len(_ids(tokenizer, spaced)) == 1 else ""
        raise UserError(f"--target {text!r} {told} Name a text that is a single token.{hint}")
    (token_id,) = ids
    if token_id >= d_vocab or (token_id == tokenizer.unk_token_id and text != tokenizer.unk_token):
        raise UserError(
            f"--target {text!r} is not in the vocabulary of the model. Name another text."
        )
    return Target(token_id, text)


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The tokens of a text, as they stand inside a document."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [int(token_id) for token_id in ids]
