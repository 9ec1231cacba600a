import matplotlib
import pytest
from matplotlib.figure import Figure

from sdlms.figures.images import LARGEST_SVG_BYTES, own_style, picture_of


def drawing(n_points: int = 3, title: str = "title") -> Figure:
    figure = Figure(figsize=(3, 2))
    panel = figure.subplots()
    panel.plot(range(n_points), [n % 7 for n in range(n_points)], marker="o")
    panel.scatter([0, 1], [0, 1])
    panel.set_title(title)
    return figure


def test_the_same_figure_gives_the_same_bytes() -> None:
    with own_style():
        first, second = (picture_of(drawing()) for _ in range(2))
    assert first == second
    assert first.media_type == "image/svg+xml"
    assert (first.width, first.height) == (288, 192)
    assert b"<svg" in first.content
    assert b"date" not in first.content


def test_settings_of_the_user_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_style():
        plain = picture_of(drawing())
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    with own_style():
        assert picture_of(drawing()) == plain
    assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_what_would_be_large_is_dots() -> None:
    with own_style():
        first, second = (picture_of(drawing(20_000)) for _ in range(2))
    assert first.media_type == "image/png"
    assert first.content.startswith(b"\x89PNG")
    assert len(first.content) < LARGEST_SVG_BYTES
    assert first == second


def test_a_letter_that_the_font_lacks_is_no_reason_to_stop() -> None:
    with own_style():
        assert picture_of(drawing(title="模型")).content


def test_a_dollar_is_a_dollar() -> None:
    with own_style():
        dollars, none = (picture_of(drawing(title=title)) for title in (r"$\no$such", "1"))
    assert len(dollars.content) > len(none.content)  # as formula it could not be read
