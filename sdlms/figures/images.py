"""A figure as bytes of a picture: the same figure gives the same bytes."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

LARGEST_SVG_BYTES = 250_000  # beyond, dots take less room than lines
DOTS_PER_INCH = 144
SALT = "sdlms"  # of the names inside an SVG, which are random otherwise


class Picture(NamedTuple):
    """A picture, ready to be written.

    Attributes:
        media_type: `image/svg+xml` or `image/png`.
        content: its bytes.
        width: in points of the page (1/96 inch).
        height: likewise.
    """

    media_type: str
    content: bytes
    width: int
    height: int


@contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's own settings are, while figures are made."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = SALT
        matplotlib.rcParams["text.parse_math"] = False  # a `$` in a name is a `$`
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def picture_of(figure: Figure) -> Picture:
    """The figure as SVG or, where that is large, as PNG, whichever takes less; inside `own_style`.

    Letters are drawn as lines, so that it looks the same without the font.
    """
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawn = _saved(figure, "svg", nothing)
    if len(drawn) > LARGEST_SVG_BYTES:
        dots = _saved(figure, "png", {"Software": None})
        if len(dots) < len(drawn):
            return Picture("image/png", dots, width, height)
    return Picture("image/svg+xml", drawn, width, height)


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    """What matplotlib writes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()
