"""Texts inside documents: every kind of tokenizer gives what stands there."""

from pathlib import Path

import pytest
from transformers import BertTokenizerLegacy

from sdlms.models.running_text import neutrals_of, running_ids, running_spans, spans_alone
from tests.models.word_tokenizers import KINDS, Kind, word_tokenizer

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SPACED = [kind for kind in KINDS if kind != "words"]
TEXTS = ["Paris", " Paris", "the Paris", " the  x", "Paris Paris", "s", " ", "", "Paris.", " on,"]


@EVERY_KIND
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_at_the_end_of_a_document(kind: Kind, text: str) -> None:
    tokenizer = word_tokenizer(kind)
    ids = running_ids(tokenizer, text)
    if kind == "words" and text[:1].isalpha():
        return  # there a word that goes on is another word
    for before in ("x", "to", "Paris, on"):
        whole = tokenizer(f"{before}{text}")["input_ids"]
        assert whole == [*tokenizer(before)["input_ids"], *ids]


@pytest.mark.parametrize("kind", SPACED)
def test_a_word_is_one_token_with_its_space_and_without(kind: Kind) -> None:
    tokenizer = word_tokenizer(kind)
    mark = "Ġ" if "byte-level" in kind else "▁"
    for text, word in (("Paris", "Paris"), (" Paris", f"{mark}Paris")):
        (token_id,) = running_ids(tokenizer, text)
        assert tokenizer.convert_ids_to_tokens(token_id) == word


@EVERY_KIND
def test_a_beginning_is_special_where_a_space_is_put_there(kind: Kind) -> None:
    is_special = kind not in ("byte-level", "never", "words")
    assert bool(neutrals_of(word_tokenizer(kind))) == is_special


@pytest.mark.parametrize("kind", SPACED)
@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_spans_cover_the_text(kind: Kind, text: str) -> None:
    spans = running_spans(word_tokenizer(kind), text)
    places = [place for span in spans for place in range(span.begin, span.end)]
    assert sorted(set(places)) == list(range(len(text)))


def test_what_is_known_to_stand_before_counts() -> None:
    tokenizer = word_tokenizer("first")
    alone = [span.id for span in spans_alone(tokenizer, "Paris")]
    behind = [span.id for span in running_spans(tokenizer, "Paris", before="x")]
    assert (len(alone), len(behind)) == (1, 1) and alone != behind


def test_where_nothing_can_stand_before_the_text_is_alone() -> None:
    """An unknown character melts into any other that is unknown, and takes what is before it."""
    tokenizer = word_tokenizer("prepend, no newline")
    assert running_ids(tokenizer, "é") == tokenizer("xé")["input_ids"][2:]
    assert running_ids(word_tokenizer("words"), "Paris") == [1]


def test_a_tokenizer_that_is_not_fast_gives_the_text_alone(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n[UNK]\n")
    assert running_ids(BertTokenizerLegacy(str(tmp_path / "vocab.txt")), "a b") == [0, 1]
