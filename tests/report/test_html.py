from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.report.html import (
    Html,
    element,
    escaped,
    facts,
    folded,
    grid,
    link,
    markup_of,
    of_class,
    scroller,
    section,
)

HOSTILE = "<script>alert(1)</script>\"'&<!--"


class Seen(HTMLParser):
    """What a parser finds: tags in order, text, and values of attributes."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text, self.values = "", {}
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values |= dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"])))
def test_text_comes_back_as_it_was_and_makes_no_element(text: str) -> None:
    seen = Seen(element("p", [text, Html("<br>")], {"title": text}).markup)
    assert seen.text == text
    assert seen.tags == ["p", "br", "/p"]
    assert seen.values == {"title": text}


@given(st.text())
def test_any_text_can_be_written_and_holds_nothing_unseen(text: str) -> None:
    markup = escaped(text)
    markup.encode()
    assert not set(markup) & {"<", ">", '"', "'", "\x00", "\r", "\u202e"}


def test_what_cannot_be_seen_is_named() -> None:
    assert escaped("a\u202eb\x00c") == "a⟨U+202E⟩b⟨U+0000⟩c"
    assert escaped("\udc80") == "\\udc80"
    assert escaped("a\tb\nc") == "a\tb\nc"


def test_contents_of_contents_keep_their_order() -> None:
    assert markup_of(["a", [Html("<br>"), ["<"]], (each for each in "bc")]) == "a<br>&lt;bc"


@pytest.mark.parametrize(
    ("made", "tags"),
    [
        (link("place", HOSTILE), ["a", "/a"]),
        (of_class("note", "p", HOSTILE), ["p", "/p"]),
        (section(2, HOSTILE, HOSTILE, "x"), ["section", "h2", "/h2", "/section"]),
        (facts([(HOSTILE, HOSTILE)]), ["dl", "dt", "/dt", "dd", "/dd", "/dl"]),
        (folded(HOSTILE, ""), ["details", "summary", "/summary", "/details"]),
        (scroller(HOSTILE, HOSTILE), ["div", "/div"]),
    ],
)
def test_no_helper_lets_markup_in(made: Html, tags: list[str]) -> None:
    seen = Seen(made.markup)
    assert seen.tags == tags
    assert HOSTILE in seen.text or HOSTILE in seen.values.values()


def test_a_table_has_a_cell_for_each_value() -> None:
    seen = Seen(grid(HOSTILE, ("a", HOSTILE), [("1", HOSTILE), ("2", "x")], numeric=[0]).markup)
    assert seen.tags.count("tr") == 3
    assert (seen.tags.count("th"), seen.tags.count("td")) == (2, 4)
    assert "script" not in seen.tags
    assert seen.values["aria-label"] == HOSTILE
    assert seen.values["class"] == "n"
