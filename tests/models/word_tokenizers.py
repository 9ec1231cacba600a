"""Small tokenizers of the kinds that there are.

They know "Paris" with a space before it and without; of "on" only the word, of "s" only the end.
"""

from functools import lru_cache
from typing import Literal, get_args

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Kind = Literal[
    *("byte-level", "prefixed byte-level", "always", "always, split", "first", "never"),
    *("prepend", "prepend, no newline", "unigram", "unigram, split", "words"),
]
KINDS: tuple[Kind, ...] = get_args(Kind)
LETTERS = [*"Paristeheonx.:),", "Pa", "Par", "Pari", "Paris"]
MERGES = [("P", "a"), ("Pa", "r"), ("Par", "i"), ("Pari", "s")]


@lru_cache
def word_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """One of them.

    (prefixed) byte-level: as GPT-2, as RoBERTa; always, first, never: SentencePiece's BPE, by where
    a space is put before a text; prepend: as Llama 2, by a normalizer; words: whole words alone.
    """
    if "byte-level" in kind:
        made = _byte_level(add_prefix_space=kind.startswith("prefixed"))
    elif kind == "words":
        made = Tokenizer(models.WordLevel({"<unk>": 0, "Paris": 1, "t": 2}, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        made = _sentence_piece(kind)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def _byte_level(*, add_prefix_space: bool) -> Tokenizer:
    """Every byte has a token."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *LETTERS[-4:]]
    made = Tokenizer(models.BPE(*_spaced("Ġ", words)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    return made


def _sentence_piece(kind: Kind) -> Tokenizer:
    """A space is part of the word behind it, and is written as ▁."""
    newline = [] if "no newline" in kind else ["\n"]
    words = ["<unk>", "▁", *newline, *LETTERS]
    if kind.startswith("unigram"):
        scores = [(word, -1.0 if len(word) > 2 else -9.0) for word in _spaced("▁", words)[0]]
        made = Tokenizer(models.Unigram(scores, unk_id=0))
    else:
        made = Tokenizer(models.BPE(*_spaced("▁", words), unk_token="<unk>", fuse_unk=True))
    if kind.startswith("prepend"):
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.normalizer = normalizers.Sequence(steps)
    else:
        scheme = kind if kind in ("first", "never") else "always"
        made.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme=scheme, split=kind.endswith("split")
        )
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return made


def _spaced(space: str, words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids in order, and merges; words behind a space are put to them."""
    known = [*words, f"{space}Paris", f"{space}o", f"{space}on"]
    merges = [*MERGES, (space, "Paris"), (space, "o"), (f"{space}o", "n")]
    return {word: token_id for token_id, word in enumerate(dict.fromkeys(known))}, merges
