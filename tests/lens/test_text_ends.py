"""Where texts end: the last position that is text, and characters that people know it by."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from sdlms.lens.text_ends import last_positions, one_line, text_ends
from sdlms.storage.rows import Rows
from tests.conftest import TOKENIZER
from tests.lens.lens_files import rows_of

BYTES = AutoTokenizer.from_pretrained(TOKENIZER)


def test_last_positions_are_the_last_that_are_text() -> None:
    rows = rows_of([4, 0, 3, 2], ["a"] * 4, masked=0.0)
    rows.mask[:] = [1, 1, 1, 0, 1, 1, 1, 0, 0]
    assert last_positions(rows).tolist() == [2, -1, 6, -1]


def test_the_end_of_each_text_is_told() -> None:
    texts = ["The red road and the blue river.", "Ann", "", "😀" * 30, "a\n\tb", "x" * 500]
    ids = [BYTES(text)["input_ids"] if text else [] for text in texts]
    offsets = np.cumsum([0, *map(len, ids)])
    rows = Rows(
        np.concatenate(ids).astype(np.int32), np.ones(offsets[-1], np.uint8), offsets,
        [str(n) for n in range(len(ids))], ["t"] * len(ids),
    )  # fmt: skip
    expected = [" and the blue river.", "Ann", "", "😀" * 20, r"a\n\tb", "x" * 20]
    assert text_ends(BYTES, rows) == expected
    rows.mask[offsets[1] - 1] = 0
    assert text_ends(BYTES, rows)[0] == "d and the blue river"


@pytest.mark.parametrize("text", ["a\r\nb", "\x1b[31m", "\\n", "é \u2028", "<img>", "\x00"])
def test_one_line_can_be_read_back(text: str) -> None:
    told = one_line(text)
    assert told.isprintable() and told.splitlines() == [told]
    assert told.encode("latin-1", "backslashreplace").decode("unicode_escape") == text
