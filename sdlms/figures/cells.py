"""What maps of cells share: their colours, and text that can be read on and drawn in them."""

from functools import lru_cache

from matplotlib import colormaps
from matplotlib.font_manager import FontProperties, findfont, get_font

COLOUR_MAP = "cividis"  # as good as the same to every kind of colour vision, and rising in grey
GLYPHS = {" ": "␣", "\n": "↵", "\t": "→", "\r": "←"}
LONGEST = 9  # characters of a cell
LACKING = "□"


def ink_on(value: float) -> str:
    """The colour of text on a cell, white on dark and black on light.

    Args:
        value: of the cell, in [0, 1].
    """
    red, green, blue, _ = colormaps[COLOUR_MAP](float(value))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def drawable(text: str) -> str:
    """A token as it can be drawn: spaces seen, cut where it is long, no glyph that is lacking."""
    shown = with_glyphs("".join(GLYPHS.get(character, character) for character in text))
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def with_glyphs(text: str, family: str = "sans-serif") -> str:
    """The text with a box for each character that a font of the figures lacks."""
    held = _glyphs(family)
    return "".join(character if ord(character) in held else LACKING for character in text)


@lru_cache(maxsize=4)
def _glyphs(family: str) -> frozenset[int]:
    """Characters that a font has."""
    return frozenset(get_font(findfont(FontProperties(family=[family]))).get_charmap())
