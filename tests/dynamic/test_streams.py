"""Documents are packed whole, each marked once, and read no further than needed."""

from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sdlms.dynamic.streams import Documents, Stream, packed, read_documents
from sdlms.models.tokens import CHUNK_DOCUMENTS, Text
from tests.conftest import TOKENIZER

END = 0


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TOKENIZER)


def texts(*contents: str, task: str = "prose") -> list[Text]:
    return [Text(f"{task}-{number}", task, content) for number, content in enumerate(contents)]


def only(tokenizer: PreTrainedTokenizerFast, *contents: str) -> Documents:
    (documents,) = read_documents(tokenizer, [texts(*contents)])
    return documents


def everything(documents: Documents) -> Stream:
    return packed(documents.in_order(range(len(documents.texts))), 10**9)


def test_documents_follow_one_another_each_after_an_end_of_text_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    first, second = "A river runs.", "Two trees stand by the road."
    stream = everything(only(tokenizer, first, second))
    one, two = tokenizer(first)["input_ids"], tokenizer(second)["input_ids"]
    assert stream.ids.tolist() == [END, *one, END, *two]
    assert stream.document.tolist() == [0] * (len(one) + 1) + [1] * (len(two) + 1)
    assert stream.scored.tolist() == (stream.ids != END).tolist()
    turned = packed(only(tokenizer, first, second).in_order([1, 0]), 10**9)
    assert turned.ids.tolist() == [END, *two, END, *one]
    assert turned.document.tolist() == [1] * (len(two) + 1) + [0] * (len(one) + 1)


def test_a_special_token_in_the_text_is_not_scored(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = everything(only(tokenizer, f"one {tokenizer.eos_token} two"))
    assert stream.ids.tolist().count(END) == 2
    assert not stream.scored[stream.ids == END].any() and stream.scored[stream.ids != END].all()


@pytest.mark.parametrize("template", ["<|x|> $A", "$A <|x|>"])
def test_a_tokenizer_that_marks_documents_itself_adds_no_second_mark(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    mark = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template.replace("<|x|>", mark), special_tokens=[(mark, END)]
    )
    stream = everything(only(tokenizer, "A river.", "A road."))
    assert stream.ids.tolist().count(END) == 2
    assert stream.ids[0 if template.startswith("<") else -1] == END


def test_without_an_end_of_text_token_nothing_stands_between(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    expected = [*tokenizer("A river.")["input_ids"], *tokenizer("A road.")["input_ids"]]
    tokenizer.eos_token = tokenizer.bos_token = tokenizer.pad_token = None
    assert everything(only(tokenizer, "A river.", "A road.")).ids.tolist() == expected


def test_an_empty_text_is_a_mark_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert everything(only(tokenizer, "")).ids.tolist() == [END]


def test_no_more_is_tokenised_than_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    n_seen = []

    class Counting:
        """The tokenizer itself; only the number of texts is noted."""

        def __call__(self, given: list[str], **settings: Any) -> Any:
            n_seen.append(len(given))
            return tokenizer(given, **settings)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    contents = [f"Number {number} is here." for number in range(3 * CHUNK_DOCUMENTS)]
    documents = Documents("prose", texts(*contents), Counting())  # type: ignore[arg-type]
    order = range(len(contents))
    assert not n_seen
    first = packed(documents.in_order(order), 20)
    assert n_seen == [CHUNK_DOCUMENTS]
    again = packed(documents.in_order(order), 20)
    assert n_seen == [CHUNK_DOCUMENTS]  # known by now
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    packed(documents.in_order(order), 10**9)
    assert n_seen == [CHUNK_DOCUMENTS] * 3


def test_a_stream_ends_with_the_token_that_makes_it_enough(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    documents = only(tokenizer, "A river runs.", "Two trees stand by the road.", "A road.")
    whole = everything(documents)
    n_scorable = int(whole.scored.sum())
    for n_scored in range(1, n_scorable + 1):
        stream = packed(documents.in_order(range(3)), n_scored)
        assert stream.scored.sum() == n_scored and stream.scored[-1]
        for own, all_of_it in zip(stream, whole, strict=True):
            assert np.array_equal(own, all_of_it[: len(own)])
    for own, all_of_it in zip(packed(documents.in_order(range(3)), 10**9), whole, strict=True):
        assert np.array_equal(own, all_of_it)


def test_a_second_reader_goes_on_where_the_first_has_stopped(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    pieces = only(tokenizer, "A river runs.", "Two trees stand.", "A road.").in_order([2, 0, 1])
    assert set(packed(pieces, 1).document.tolist()) == {2}
    assert packed(pieces, 0).ids.shape == (0,)
    assert list(dict.fromkeys(packed(pieces, 10**9).document.tolist())) == [0, 1]
    assert packed(pieces, 5).document.dtype == np.int64
