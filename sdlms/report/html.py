"""HTML that cannot be broken by what is put into it: all text is escaped, in one place."""

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

NONE = "none"  # where there is nothing to say
VOID = ("img", "meta", "br")  # elements that hold nothing and are not closed
# What browsers drop, replace, or let change the direction of what follows.
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True)
class Html:
    """Markup that is finished; every other text is escaped when it is put into an element."""

    markup: str


Content = str | Html | Iterable["Content"]


def escaped(text: str) -> str:
    """Text as it stands in an element or between the quotes of an attribute.

    Characters that cannot be seen are named, as `U+202E`; halves of surrogate pairs, which no file
    can hold, are written with a backslash.
    """
    seen = UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
    return html.escape(seen.encode(errors="backslashreplace").decode())


def markup_of(content: Content) -> str:
    """Everything in a content, as markup."""
    if isinstance(content, Html):
        return content.markup
    if isinstance(content, str):
        return escaped(content)
    return "".join(map(markup_of, content))


def element(tag: str, content: Content = "", attributes: Mapping[str, str] | None = None) -> Html:
    """One element.

    Args:
        tag: its name, which is ours.
        content: what it holds; text in it is escaped.
        attributes: by name, which is ours; values are escaped.
    """
    named = "".join(f' {name}="{escaped(value)}"' for name, value in (attributes or {}).items())
    if tag in VOID:
        return Html(f"<{tag}{named}>")
    return Html(f"<{tag}{named}>{markup_of(content)}</{tag}>")


def of_class(name: str, tag: str, content: Content) -> Html:
    """An element of a class that the style sheet knows."""
    return element(tag, content, {"class": name})


def link(target: str, content: Content) -> Html:
    """A link to a place in the page."""
    return element("a", content, {"href": f"#{target}"})


def section(level: int, heading: Content, content: Content, place: str) -> Html:
    """A part of the page with its heading, which links lead to."""
    title = element(f"h{level}", heading)
    return element("section", [title, "\n", content, "\n"], {"id": place})


def facts(pairs: Iterable[tuple[str, Content]]) -> Html:
    """Names with what they are, one below the other."""
    rows: list[Content] = [[element("dt", name), element("dd", what), "\n"] for name, what in pairs]
    return element("dl", rows)


def folded(summary: Content, content: Content) -> Html:
    """What is shown when its line is chosen, and always on paper."""
    return element("details", [element("summary", summary), "\n", content, "\n"])


def scroller(name: str, content: Content) -> Html:
    """What may be wider than the page: it scrolls by itself, with the keyboard too."""
    attributes = {"class": "scroller", "role": "region", "tabindex": "0", "aria-label": name}
    return element("div", content, attributes)


def grid(
    name: str,
    head: Sequence[str],
    rows: Iterable[Iterable[Content]],
    numeric: Collection[int] = (),
) -> Html:
    """A table that scrolls.

    Args:
        name: of the table, for those who hear the page.
        head: names of the columns.
        rows: their cells.
        numeric: which columns stand at the right.
    """
    looks = [{"class": "n"} if index in numeric else {} for index in range(len(head))]
    titles = [
        element("th", column, {"scope": "col", **look})
        for column, look in zip(head, looks, strict=True)
    ]
    lines = [element("tr", titles)]
    body: list[Content] = [
        [element("tr", map(partial(element, "td"), row, looks)), "\n"] for row in rows
    ]
    table: list[Content] = [element("thead", lines), "\n", element("tbody", body)]
    return scroller(name, element("table", table))
