"""Tokens are taken in every usual form, or refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from sdlms.acts.token_rows import rows_of
from sdlms.errors import UserError
from sdlms.storage.rows import Rows

TOKENIZER = Path(__file__).parents[2] / "sdlms/assets/models/sdlms-medium"


def pieces(rows: Rows) -> list[list[int]]:
    return [
        rows.ids[a:b].tolist() for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    ]


def test_tokens_come_in_several_forms() -> None:
    expected = [[5, 6], [], [7]]
    rows = rows_of(expected)
    assert pieces(rows) == expected and rows_of(rows) is rows
    assert rows.ids.dtype == np.int32 and rows.mask.all() and rows.document_ids == ["0", "1", "2"]
    for form in (
        [np.array([5, 6]), np.array([], dtype=np.int64), torch.tensor([7])],
        {"input_ids": expected},
        {"input_ids": torch.tensor([[5, 6], [0, 0], [7, 0]]),
         "attention_mask": torch.tensor([[1, 1], [0, 0], [1, 0]])},
        {"input_ids": [[5, 6], [0, 0], [0, 7]], "attention_mask": [[1, 1], [0, 0], [0, 1]]},
    ):  # fmt: skip
        assert pieces(rows_of(form)) == expected
    assert rows_of([]).n_documents == 0
    assert pieces(rows_of(torch.tensor([[1, 2], [3, 4]]))) == [[1, 2], [3, 4]]  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_the_same_rows(side: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, padding_side=side)
    texts = ["The river turned north.", "Yes", "It carried boats past farms toward the sea."]
    alone = [tokenizer(text)["input_ids"] for text in texts]
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    assert padded["attention_mask"].min() == 0
    assert pieces(rows_of(padded)) == alone
    assert pieces(rows_of(tokenizer(texts))) == alone


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 2, 3], "a list of token ids is needed for each document"),
        ([[1.0, 2.0]], "a list of token ids"),
        (["text"], "a list of token ids"),
        ([[[1]]], "a list of token ids"),
        ({"input_ids": [1, 2]}, "a list of token ids"),
        ({"ids": [[1]]}, "tokens hold ids; input_ids are needed"),
        (None, "a list of token ids is needed for each document"),
        (5, "a list of token ids is needed for each document"),
        ("text", "a list of token ids is needed for each document"),
        ([[[1], [1, 2]]], "a list of token ids is needed for each document"),
        ({"input_ids": None}, "a list of token ids is needed for each document"),
        ({"input_ids": [[1, 2]], "attention_mask": 1}, "attention_mask: .*for each document"),
        ({"input_ids": [[1, 2]], "attention_mask": [[[1], [1, 2]]]}, "different shapes"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "different shapes"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1], [1, 1]]}, "different shapes"),
    ],
)
def test_what_are_no_tokens_is_one_clear_line(tokens: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows_of(tokens)
