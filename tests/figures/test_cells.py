"""Cells of maps: colours that are seen without colour, words that can be read and drawn."""

from itertools import pairwise

import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from sdlms.figures.cells import COLOUR_MAP, drawable, ink_on, with_glyphs

GROUNDS = [n / 99 for n in range(100)]


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_rise_in_grey() -> None:
    greys = [luminance(colormaps[COLOUR_MAP](value)[:3]) for value in GROUNDS]
    assert all(one < other for one, other in pairwise(greys))


def test_ink_can_be_read_on_its_ground() -> None:
    for value in GROUNDS:
        ground = luminance(colormaps[COLOUR_MAP](value)[:3])
        ink = luminance(to_rgb(ink_on(value)))
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 3.5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "␣the"),
        ("\n\n\t", "↵↵→"),
        ("abcdefghi", "abcdefghi"),
        ("abcdefghij", "abcdefgh…"),
        ("語\x00", "□□"),
        ("", ""),
    ],
)
def test_tokens_are_drawn_as_they_are(text: str, shown: str) -> None:
    assert drawable(text) == shown


def test_what_a_font_lacks_is_a_box() -> None:
    assert with_glyphs("aü語", "DejaVu Sans Mono") == "aü□"
