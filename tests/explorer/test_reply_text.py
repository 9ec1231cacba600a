"""Where a reply ends, and what it says."""

import pytest

from sdlms.explorer.prompting import Prompting
from sdlms.explorer.reply_text import ReplyWriter
from tests.explorer.toy_tokenizers import CHATML, embedded_tokenizer, prompting_with, with_template

CHAT = prompting_with(with_template("byte-level", CHATML))


def ids_of(prompting: Prompting, *texts: str) -> list[int]:
    """The ids of the texts, each tokenised alone."""
    tokenizer = prompting.tokenizer
    return [i for text in texts for i in tokenizer(text, add_special_tokens=False).input_ids]


def written(prompting: Prompting, end: str, *texts: str) -> ReplyWriter:
    """A writer that has taken all the tokens, whose last alone may end the reply."""
    writer = ReplyWriter(prompting, end)
    for token_id in ids_of(prompting, *texts):
        assert not writer.ended
        writer.push(token_id)
    return writer


def test_a_line_ends_where_the_template_ends_it() -> None:
    writer = written(prompting_with(embedded_tokenizer()), "\n", " As brave as", " lion.", "\n")
    assert (writer.ended, writer.end, writer.n_end_tokens) == (True, "\n", 1)
    assert writer.text == "As brave as lion."


def test_an_unfinished_reply() -> None:
    writer = written(prompting_with(embedded_tokenizer()), "\n", " As brave")
    assert (writer.ended, writer.end, writer.n_end_tokens) == (False, "", 0)
    assert writer.text == "As brave"


@pytest.mark.parametrize("end", ["\n", "<|im_end|>\n", "", " "])
def test_every_end_of_the_model_ends_it(end: str) -> None:
    writer = written(CHAT, end, "the", "</s>")
    assert (writer.ended, writer.end, writer.n_end_tokens) == (True, "</s>", 1)
    assert writer.text == "the"


def test_the_control_token_of_the_template_ends_it() -> None:
    writer = written(CHAT, "<|im_end|>\n", "the\n\ncat", "<|im_end|>")
    assert (writer.ended, writer.end, writer.text) == (True, "<|im_end|>", "the\n\ncat")


def test_an_end_of_several_tokens() -> None:
    writer = written(CHAT, "\n##\n", "the\n#", "\n#", "#", "\n")
    assert (writer.ended, writer.end) == (True, "\n##\n")
    assert writer.n_end_tokens == 4  # "\n", "#", "#", "\n"
    assert writer.text == "the\n#"


def test_spaces_alone_end_nothing() -> None:
    assert not written(CHAT, " ", "the cat", " ", "  ").ended


def test_a_token_that_says_more_than_the_end() -> None:
    """One token may hold words, the end, and what comes after it."""
    tokenizer = with_template("byte-level", None)
    tokenizer.add_tokens([".\nAnd", "\n\n"])
    prompting = prompting_with(tokenizer)
    writer = written(prompting, "\n", "the", ".\nAnd")
    assert (writer.ended, writer.end, writer.n_end_tokens) == (True, "\n", 0)
    assert writer.text == "the."
    writer = written(prompting, "\n", "the", "\n\n")
    assert (writer.ended, writer.n_end_tokens, writer.text) == (True, 1, "the")


def test_characters_spread_over_tokens() -> None:
    writer = written(CHAT, "<|im_end|>", "🙂", "<|im_end|>")
    assert writer.text == "🙂"
    writer = ReplyWriter(CHAT, "")
    assert [writer.push(token_id).text for token_id in ids_of(CHAT, "🙂")] == ["", "", "", "🙂"]
