"""Texts of tokens: exact, and without replacement characters."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerBase

from sdlms.models.token_texts import REPLACEMENT, TokenText, shown, token_text, token_texts
from tests.explorer.toy_tokenizers import KINDS, Kind, embedded_tokenizer, toy_tokenizer

TEXT = "the 🙂👩‍👩‍👧 e\u0301 é 漢字\u3000\u00a0\u200b|\n\t\r the<s> \x00 \U0010ffff"
Maker = Callable[[], PreTrainedTokenizerBase]
BYTE_LEVEL: list[Maker] = [lambda: toy_tokenizer("byte-level"), embedded_tokenizer]


@pytest.mark.parametrize("tokenizer", BYTE_LEVEL)
@pytest.mark.parametrize("text", [TEXT, "", "🙂", REPLACEMENT, f"a{REPLACEMENT}🙂"])
def test_texts_one_after_another_are_the_text(tokenizer: Maker, text: str) -> None:
    ids = tokenizer()(text, add_special_tokens=False).input_ids
    assert "".join(found.text for found in token_texts(tokenizer(), ids)) == text


@pytest.mark.parametrize("kind", ["metaspace", "legacy"])
def test_sentence_piece_begins_with_its_space(kind: Kind) -> None:
    ids = toy_tokenizer(kind)("the 🙂 漢\n", add_special_tokens=False).input_ids
    assert "".join(t.text for t in token_texts(toy_tokenizer(kind), ids)) == " the 🙂 漢\n"


def test_a_character_stands_at_its_last_token() -> None:
    ids = embedded_tokenizer()("🙂a", add_special_tokens=False).input_ids
    assert token_texts(embedded_tokenizer(), ids) == [
        TokenText("", "f0"),
        TokenText("", "9f"),
        TokenText("", "99"),
        TokenText("🙂", "82"),
        TokenText("a", ""),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_bytes_stand_in_hex_only(kind: Kind) -> None:
    tokenizer = toy_tokenizer(kind)
    ids = tokenizer("🙂", add_special_tokens=False).input_ids
    broken = [*ids[:-2], *tokenizer("a", add_special_tokens=False).input_ids[-1:], ids[-1]]
    texts = token_texts(tokenizer, broken)
    assert "".join(t.text for t in texts).strip() == "a"
    assert texts[-1] == TokenText("", "82")


@pytest.mark.parametrize(
    "tokenizer", [embedded_tokenizer, *(lambda k=k: toy_tokenizer(k) for k in KINDS)]
)
def test_no_token_alone_shows_a_replacement_character(tokenizer: Maker) -> None:
    texts = [token_text(tokenizer(), token_id) for token_id in range(len(tokenizer()))]
    assert not any(REPLACEMENT in text for text in texts)
    assert all(texts)
    assert sum(text.startswith("⟨") for text in texts) >= 128  # bytes that begin or go on


def test_predictions_of_partial_bytes_show_hex() -> None:
    tokenizer = embedded_tokenizer()
    first = tokenizer("🙂", add_special_tokens=False).input_ids[0]
    assert token_text(tokenizer, first) == "⟨f0⟩"
    assert token_text(tokenizer, 0) == "<|endoftext|>"
    assert token_text(tokenizer, 50_300) == "⟨50300⟩"
    assert token_texts(tokenizer, [50_300]) == [TokenText("", "id 50300")]


def test_bytes_shown() -> None:
    assert shown(b" a\xf0\x9f") == " a⟨f0 9f⟩"
    assert shown(b"\x9f\x99b\xff") == "⟨9f 99⟩b⟨ff⟩"
    assert shown("é漢".encode()) == "é漢"
    assert shown(REPLACEMENT.encode()) == "⟨ef bf bd⟩"


def test_bytes_are_those_of_the_decoder() -> None:
    """The library's own decoder agrees wherever the bytes are a text."""
    for tokenizer in (embedded_tokenizer(), toy_tokenizer("byte-level")):
        for token_id in range(len(tokenizer)):
            alone = tokenizer.decode([token_id])
            if REPLACEMENT not in alone:
                assert token_text(tokenizer, token_id) == alone
