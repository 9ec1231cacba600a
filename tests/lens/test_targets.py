"""Tokens named by their text."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sdlms.errors import UserError
from sdlms.lens.targets import Target, targets_of
from tests.conftest import TOKENIZER
from tests.models.word_tokenizers import KINDS, word_tokenizer

BYTES = AutoTokenizer.from_pretrained(TOKENIZER)
WORDS = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({"<unk>": 0, "road": 1, "river": 2}, unk_token="<unk>")),
    unk_token="<unk>",
)
WORDS.backend_tokenizer.pre_tokenizer = Whitespace()


def test_spaces_and_order_are_kept() -> None:
    ids = [BYTES(text)["input_ids"][0] for text in (" the", "t", "\n")]
    found = targets_of(BYTES, 3072, [" the", "t", "\n", " the"])
    assert found == [Target(ids[0], " the"), Target(ids[1], "t"), Target(ids[2], "\n")]
    assert targets_of(BYTES, 3072, []) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sheepdog", r"--target 'Sheepdog' is \d tokens: '.*a single token\.$"),
        ("the", r"--target 'the' is 2 tokens: 't', 'he'\. .* Did you mean ' the'\?$"),
        (" Sheepdog.", r"--target ' Sheepdog.' is \d tokens: .*a single token\.$"),
        ("x" * 99, r"is \d+ tokens: ('x+', ){8}… Name"),
    ],
)
def test_several_tokens_are_refused_with_their_pieces(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        targets_of(BYTES, 3072, [" the", text])


def test_what_the_vocabulary_lacks_is_refused() -> None:
    assert targets_of(WORDS, 3, ["river", "<unk>"]) == [Target(2, "river"), Target(0, "<unk>")]
    with pytest.raises(UserError, match="--target 'sheep' is not in the vocabulary"):
        targets_of(WORDS, 3, ["sheep"])
    with pytest.raises(UserError, match="--target 'river' is not in the vocabulary"):
        targets_of(WORDS, 2, ["river"])
    with pytest.raises(UserError, match="--target ' ' is no token"):
        targets_of(WORDS, 3, [" "])


SPACED = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "words"])


@SPACED
def test_a_word_is_what_stands_in_running_text(kind: str) -> None:
    tokenizer = word_tokenizer(kind)
    found = targets_of(tokenizer, len(tokenizer), [" Paris", "Paris", " on", "s"])
    for target, before in zip(found, ("x", "(", "x", "Paris"), strict=True):
        document = tokenizer(f"{before}{target.text}")["input_ids"]
        assert target.token_id == document[-1]
    assert len({target.token_id for target in found}) == 4


@SPACED
@pytest.mark.parametrize(("text", "meant"), [("on", " on"), (" s", "s")])
def test_the_hint_names_what_is_one_token(kind: str, text: str, meant: str) -> None:
    tokenizer = word_tokenizer(kind)
    with pytest.raises(UserError, match=rf"is 2 tokens: .* Did you mean '{meant}'\?$"):
        targets_of(tokenizer, len(tokenizer), [text])
    assert targets_of(tokenizer, len(tokenizer), [meant])


@SPACED
def test_pieces_are_shown_with_their_spaces(kind: str) -> None:
    tokenizer = word_tokenizer(kind)
    with pytest.raises(UserError, match="is 3 tokens: ' Paris', ' o', 'x'\\. Name"):
        targets_of(tokenizer, len(tokenizer), [" Paris ox"])
