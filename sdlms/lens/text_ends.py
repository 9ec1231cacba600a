"""Where the text of each document ends, for people to know it by."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdlms.models.token_texts import token_texts
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_CHARACTERS = 20
BYTES_PER_CHARACTER = 4  # at most; a token is a byte at least


def last_positions(rows: Rows) -> NDArray[np.int64]:
    """`[document]` the row of each one's last token of mask 1; -1 where it has none."""
    masked = np.flatnonzero(rows.mask)
    ends = np.searchsorted(masked, rows.offsets[1:]) - 1
    found = np.where(ends >= 0, masked[ends] if len(masked) else -1, -1)
    lasts: NDArray[np.int64] = np.where(found >= rows.offsets[:-1], found, -1)
    return lasts


def text_ends(tokenizer: "PreTrainedTokenizerBase", rows: Rows) -> list[str]:
    """The last 20 characters of each document up to its last position, as `one_line` shows them.

    Args:
        tokenizer: that made the rows.
        rows: tokens and documents; one without a token of mask 1 has an empty end.
    """
    most = END_CHARACTERS * BYTES_PER_CHARACTER
    ends = []
    for first, last in zip(rows.offsets[:-1], last_positions(rows), strict=True):
        ids = rows.ids[max(first, last + 1 - most) : last + 1]  # none where `last` is -1
        text = "".join(token.text for token in token_texts(tokenizer, map(int, ids)))
        ends.append(one_line(text[-END_CHARACTERS:]))
    return ends


def one_line(text: str) -> str:
    r"""Text without line breaks: control characters and `\` as Python writes them in a string."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
        for char in text
    )
