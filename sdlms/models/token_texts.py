"""Tokens as people see them: their text, exact and without replacement characters."""

import codecs
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
SPACE = "\u2581"  # how SentencePiece writes one


class TokenText(NamedTuple):
    """What a token of a sequence adds to its text.

    Attributes:
        text: the characters that end in it.
        pieces: its bytes in hex ("f0 9f") where they are only a part of a character, else "".
    """

    text: str
    pieces: str


class Vocabulary:
    """The bytes of every token of a tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Find out how the tokenizer's strings stand for bytes."""
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._kinds = _decoder_kinds(tokenizer)
        self._texts: dict[int, str] = {}

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes that a token stands for; None for an id that the tokenizer does not know."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(token, str):
            return None
        if "ByteLevel" in self._kinds:
            return _from_byte_level(token)
        if "ByteFallback" in self._kinds and (byte := BYTE.fullmatch(token)):
            return bytes.fromhex(byte[1])
        if self._kinds & {"ByteFallback", "Metaspace", "Replace"}:
            return token.replace(SPACE, " ").encode()
        return str(self._tokenizer.decode([token_id])).encode()

    def text_of(self, token_id: int) -> str:
        """The text of one token alone; see `token_text`."""
        if token_id not in self._texts:
            held = self.bytes_of(token_id)
            self._texts[token_id] = f"⟨{token_id}⟩" if held is None else shown(held)
        return self._texts[token_id]


class TextDecoder:
    """Bytes of tokens, one token after another, to text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Nothing decoded so far."""
        self._vocabulary = vocabulary
        # Bytes that can be no part of a character are dropped; the token's hex shows them.
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def push(self, token_id: int) -> TokenText:
        """What the next token adds."""
        held = self._vocabulary.bytes_of(token_id)
        if held is None:
            return TokenText("", f"id {token_id}")
        text = self._decoder.decode(held)
        return TokenText(text, "" if text.encode() == held else held.hex(" "))


@lru_cache(maxsize=4)
def vocabulary_of(tokenizer: "PreTrainedTokenizerBase") -> Vocabulary:
    """The tokenizer's vocabulary, made once."""
    return Vocabulary(tokenizer)


def token_text(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> str:
    """The text of one token that stands alone, as a prediction does.

    Returns:
        Its characters; bytes that are no whole character in hex, "⟨f0 9f⟩"; the number of an id
        that the tokenizer does not know, "⟨50300⟩". Never a replacement character.
    """
    return vocabulary_of(tokenizer).text_of(token_id)


def token_texts(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> list[TokenText]:
    """The texts of a sequence; one after another they are the text.

    A character whose bytes are spread over several tokens stands at the last of them. Bytes that
    make no character stand nowhere but in `pieces`.
    """
    decoder = TextDecoder(vocabulary_of(tokenizer))
    return [decoder.push(token_id) for token_id in ids]


def shown(held: bytes) -> str:
    """Bytes as text; those that are no character, and the replacement character, in hex."""
    text, broken = "", b""
    for character in held.decode(errors="surrogateescape"):
        if "\udc80" <= character <= "\udcff" or character == REPLACEMENT:
            broken += character.encode(errors="surrogateescape")
            continue
        text += _hex(broken) + character
        broken = b""
    return text + _hex(broken)


def _hex(held: bytes) -> str:
    """Bytes in hex, as in "⟨f0 9f⟩"; nothing for none."""
    return f"⟨{held.hex(' ')}⟩" if held else ""


def _decoder_kinds(tokenizer: "PreTrainedTokenizerBase") -> frozenset[str]:
    """The types of the decoding steps of a fast tokenizer; none for another one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return frozenset()
    decoder = json.loads(backend.decoder.__getstate__())  # its settings; the whole takes a second
    steps = decoder.get("decoders", [decoder])
    return frozenset(str(step["type"]) for step in steps if "type" in step)


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """How byte-level tokenizers write bytes: printable ones as themselves, others from U+0100 on.

    Source: Radford et al. 2019 (GPT-2), `bytes_to_unicode` of its encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _from_byte_level(token: str) -> bytes:
    """The bytes of a byte-level token; one with a foreign character stands for itself."""
    table = _byte_of_character()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode()
