"""Text files become paragraphs of a readable length; what is no text is refused."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage.texts import PARAGRAPH_WORDS, paragraphs, read_text

LONG = " ".join(f"word{number}" for number in range(PARAGRAPH_WORDS))
SHORT = "only three words"

# Paragraphs from lines of words, between blank lines that may hold spaces of any kind.
line = st.text(st.sampled_from("abé\u200b.\t 　"), min_size=1, max_size=12).filter(str.strip)
paragraph = st.lists(line, min_size=1, max_size=6).map("\n".join)
blank = st.lists(st.sampled_from(["", " ", "\t", "\u00a0", "\x0b"]), min_size=1, max_size=3)
gap = blank.map(lambda lines: "\n" + "\n".join(lines) + "\n")


@st.composite
def texts(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(paragraph | st.just(LONG) | st.just(SHORT), max_size=8))
    text = "".join(piece + draw(gap) for piece in pieces)
    return draw(st.sampled_from(["", "\n", " \n"])) + text


def documents(text: str) -> list[str]:
    return list(paragraphs(text))


class TestParagraphs:
    @given(texts())
    def test_no_word_is_lost_and_order_is_kept(self, text: str) -> None:
        assert " ".join(documents(text)).split() == text.split()

    @given(texts())
    def test_every_document_but_a_lone_one_is_long_enough(self, text: str) -> None:
        sizes = [len(document.split()) for document in documents(text)]
        assert len(sizes) <= 1 or min(sizes) >= PARAGRAPH_WORDS

    @given(texts())
    def test_no_document_is_blank_or_opens_or_ends_with_a_blank_line(self, text: str) -> None:
        for document in documents(text):
            lines = document.split("\n")
            assert lines[0].strip() and lines[-1].strip()

    @given(texts())
    def test_line_ends_do_not_matter(self, text: str) -> None:
        unix = documents(text)
        assert documents(text.replace("\n", "\r\n")) == unix
        assert documents(text.replace("\n", "\r")) == unix

    @given(texts())
    def test_splitting_a_document_again_leaves_it_whole(self, text: str) -> None:
        for document in documents(text):
            if len(document.split()) < 2 * PARAGRAPH_WORDS:
                assert documents(document) == [document]

    def test_long_paragraphs_stand_alone(self) -> None:
        assert documents(f"{LONG}\n\n{LONG} b") == [LONG, f"{LONG} b"]

    def test_short_ones_join_the_next_until_they_are_long_enough(self) -> None:
        assert documents(f"{SHORT}\n \n\n{SHORT}\n\n{LONG}\n\n{LONG}") == [
            f"{SHORT}\n\n{SHORT}\n\n{LONG}",
            LONG,
        ]

    def test_a_short_rest_joins_the_last_document(self) -> None:
        assert documents(f"{LONG}\n\n{SHORT}") == [f"{LONG}\n\n{SHORT}"]

    def test_exactly_the_limit_is_enough_and_one_word_less_is_not(self) -> None:
        less = LONG.rpartition(" ")[0]
        assert len(documents(f"{LONG}\n\n{LONG}")) == 2
        assert len(documents(f"{less}\n\n{LONG}")) == 1

    def test_indentation_stays_and_single_line_breaks_do_not_split(self) -> None:
        code = f"    def f():\n        return 1  # {LONG}"
        assert documents(f"\n \n{code}\n\n") == [code]

    def test_a_text_of_many_short_paragraphs_takes_linear_time(self) -> None:
        assert len(documents("a\n\n" * 200_000)) == 200_000 // PARAGRAPH_WORDS


@pytest.mark.parametrize("name", ["a.txt", "a.md.gz"])
def test_a_text_is_read_without_its_mark_compressed_or_not(tmp_path: Path, name: str) -> None:
    content = f"\ufeff{LONG}\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read_text(tmp_path / name) == f"{LONG}\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", "the file holds no text"),
        (b"\x89PNG\r\n\x1a\n\x00", "is this a binary file"),
        ("é".encode("latin-1"), "is this a binary file"),
        (b"text\0text", "is this a binary file"),
    ],
)
def test_what_is_no_text_is_refused_inside_a_compressed_file_too(
    tmp_path: Path, content: bytes, message: str
) -> None:
    for name, stored in (("a.txt", content), ("a.txt.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(UserError, match=message):
            read_text(tmp_path / name)
