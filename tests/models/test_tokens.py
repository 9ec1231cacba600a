from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from sdlms.errors import UserError
from sdlms.models.tokens import (
    Budget,
    Text,
    check_readable,
    documents_within,
    permuted_ids,
    tokenize,
    tokenize_all,
    warn_of_truncation,
)

TOKENIZER = Path(__file__).parents[2] / "sdlms/assets/models/sdlms-medium"
CONTEXT = 96


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(TOKENIZER)


def texts(task: str, n: int) -> list[Text]:
    words = "the river turned north and carried boats past quiet farms toward the sea".split()
    return [Text(f"{task}{i}", task, " ".join(words * (1 + i % 4)) + f" {i}") for i in range(n)]


def budget(max_tokens: int = 10_000, skip_first: int = 0, seed: int = 0) -> Budget:
    return Budget(max_tokens, skip_first, seed)


def test_rows_hold_each_documents_tokens(tokenizer: Tokenizer) -> None:
    source = texts("a", 5) + texts("b", 3)
    found = tokenize(tokenizer, [source[:5], source[5:]], CONTEXT, budget()).rows
    by_id = {text.id: text for text in source}
    assert sorted(found.document_ids) == sorted(by_id)
    assert found.document_tasks == ["a"] * 5 + ["b"] * 3
    for document, name in enumerate(found.document_ids):
        piece = found.ids[found.offsets[document] : found.offsets[document + 1]]
        assert tokenizer.decode(piece.tolist()) == by_id[name].text


def test_a_budget_takes_whole_documents_until_the_next_would_exceed_it(
    tokenizer: Tokenizer,
) -> None:
    whole = tokenize(tokenizer, [texts("a", 30)], CONTEXT, budget()).rows
    for limit in (100, 200, 333):
        kept = tokenize(tokenizer, [texts("a", 30)], CONTEXT, budget(limit)).rows
        n = kept.n_documents
        assert kept.document_ids == whole.document_ids[:n]
        assert kept.n_tokens <= limit < whole.offsets[n + 1]


def test_order_depends_on_seed_and_task_only(tokenizer: Tokenizer) -> None:
    def ids(tasks: list[list[Text]], seed: int) -> list[str]:
        rows = tokenize(tokenizer, tasks, CONTEXT, budget(seed=seed)).rows
        return [name for name in rows.document_ids if name.startswith("a")]

    alone = ids([texts("a", 20)], 0)
    assert ids([texts("b", 9), texts("a", 20)], 0) == alone
    assert ids([texts("a", 20)], 1) != alone
    assert alone != sorted(alone)


def test_chunks_change_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenize(tokenizer, [texts("a", 30)], CONTEXT, budget()).rows
    monkeypatch.setattr("sdlms.models.tokens.CHUNK_DOCUMENTS", 7)
    chunked = tokenize(tokenizer, [texts("a", 30)], CONTEXT, budget()).rows
    assert np.array_equal(whole.ids, chunked.ids)


def test_long_documents_are_cut_and_named(tokenizer: Tokenizer) -> None:
    long = Text("long", "a", "word " * 500)
    found = tokenize(tokenizer, [[*texts("a", 3), long]], CONTEXT, budget())
    assert found.truncated == {"long": len(tokenizer(long.text)["input_ids"]) - CONTEXT}
    assert found.rows.lengths.max() == CONTEXT


def test_special_tokens_and_first_positions_have_mask_zero(tokenizer: Tokenizer) -> None:
    text = Text("x", "a", "one two<|endoftext|>three four")
    found = tokenize(tokenizer, [[text]], CONTEXT, budget(skip_first=1)).rows
    special = found.ids == tokenizer.eos_token_id
    assert special.sum() == 1
    assert found.mask[0] == 0
    assert not found.mask[special].any()
    assert found.mask[1:][~special[1:]].all()


def test_skipping_more_than_a_document_stays_within_it(tokenizer: Tokenizer) -> None:
    short, long = Text("s", "a", "hi"), Text("l", "b", "one two three four five six seven")
    found = tokenize(tokenizer, [[short], [long]], CONTEXT, budget(skip_first=3)).rows
    assert not found.mask[: found.offsets[1]].any()
    assert found.mask[found.offsets[1] :].tolist()[:3] == [0, 0, 0]
    assert found.mask[found.offsets[1] + 3 :].all()


def test_a_budget_below_the_first_document_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"--max-tokens 2: .* task 'a' has \d+ tokens"):
        tokenize(tokenizer, [texts("a", 3)], CONTEXT, budget(2))


def test_what_is_asked_for_is_enough_for_every_task(tokenizer: Tokenizer) -> None:
    tasks = [texts("a", 1), [Text("b0", "b", "the " * 20)], texts("c", 1)]
    with pytest.raises(UserError, match=r"of task 'b' has \d+ tokens") as error:
        tokenize(tokenizer, tasks, CONTEXT, budget(2))
    enough = int(str(error.value).split(" has ")[1].split()[0])
    assert tokenize(tokenizer, tasks, CONTEXT, budget(enough)).rows.n_documents == 3


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 400))
def test_a_sample_is_whole_documents_within_its_limit(lengths: list[int], limit: int) -> None:
    array = np.array(lengths)
    sample = documents_within(array, limit, seed=3)
    assert sample == sorted(set(sample))
    assert len(sample) == 1 or array[sample].sum() <= limit
    assert sample == documents_within(array, limit, seed=3)
    if array.sum() <= limit:
        assert sample == list(range(len(lengths)))


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=30), min_size=1, max_size=8),
    st.integers(0, 2**64 - 1),
)
def test_permuting_keeps_tokens_documents_and_special_tokens(
    documents: list[list[int]], seed: int
) -> None:
    ids = np.array(list(chain.from_iterable(documents)), dtype=np.int32)
    offsets = np.cumsum([0, *map(len, documents)])
    names = [f"{number:016x}" for number in range(len(documents))]
    special = ids <= 2
    found = permuted_ids(ids, offsets, special, names, seed)
    assert found.dtype == np.int32
    assert np.array_equal(found[special], ids[special])
    for number, (first, last) in enumerate(pairwise(offsets)):
        assert sorted(found[first:last]) == sorted(ids[first:last])
        alone = permuted_ids(
            ids[first:last],
            np.array([0, last - first]),
            special[first:last],
            names[number : number + 1],
            seed,
        )
        assert np.array_equal(found[first:last], alone)  # whichever documents stand beside it


def test_every_order_is_as_likely_as_another() -> None:
    """Three tokens have six orders; over 3000 documents each comes about 500 times."""
    ids = np.tile(np.arange(3, dtype=np.int32), 3000)
    offsets = np.arange(0, 9001, 3)
    names = [str(number) for number in range(3000)]
    found = permuted_ids(ids, offsets, np.zeros(9000, dtype=bool), names, 0).reshape(-1, 3)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 500) ** 2 / 500).sum() < 20.5  # chi squared, 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("skip_first", [0, 5])
def test_the_control_differs_in_order_only(tokenizer: Tokenizer, skip_first: int) -> None:
    def rows(permute: bool, seed: int = 0):  # type: ignore[no-untyped-def]  # noqa: ANN202
        wanted = Budget(10_000, skip_first, seed, permute)
        return tokenize(tokenizer, [texts("a", 20)], 40, wanted)

    plain, control = rows(False), rows(True)
    assert control.truncated == plain.truncated != {}
    assert control.rows.document_ids == plain.rows.document_ids
    assert np.array_equal(control.rows.offsets, plain.rows.offsets)
    assert np.array_equal(control.rows.mask, plain.rows.mask)
    pieces = np.split(np.arange(plain.rows.n_tokens), plain.rows.offsets[1:-1])
    for piece in pieces:  # cut before it is shuffled: the very same tokens
        assert sorted(control.rows.ids[piece]) == sorted(plain.rows.ids[piece])
        assert not np.array_equal(control.rows.ids[piece], plain.rows.ids[piece])
    heads = [piece[:5] for piece in pieces]  # skipped by statistics, but shuffled as well
    assert any((control.rows.ids[head] != plain.rows.ids[head]).any() for head in heads)
    assert np.array_equal(control.rows.ids, rows(True).rows.ids)
    assert not np.array_equal(rows(True, seed=1).rows.ids, control.rows.ids)


def test_a_task_without_a_readable_token_is_refused(tokenizer: Tokenizer) -> None:
    rows = tokenize(tokenizer, [texts("a", 3), texts("b", 2)], CONTEXT, budget()).rows
    lengths = rows.lengths
    check_readable(rows, lengths)
    with pytest.raises(UserError, match="task 'b': every token is special or skipped"):
        check_readable(rows, np.where(np.array(rows.document_tasks) == "b", 0, lengths))


def test_every_document_is_kept_in_the_order_given(tokenizer: Tokenizer) -> None:
    source = texts("b", 300) + texts("a", 3)  # more than a chunk
    found = tokenize_all(tokenizer, source, CONTEXT).rows
    assert found.document_ids == [text.id for text in source]
    assert found.document_tasks == [text.task for text in source]
    for document, text in enumerate(source):
        ids = found.ids[found.offsets[document] : found.offsets[document + 1]]
        assert ids.tolist() == tokenizer(text.text)["input_ids"]
    assert found.mask.all() and found.ids.dtype == np.int32


def test_every_document_is_cut_and_masked_as_tokenize_does(tokenizer: Tokenizer) -> None:
    source = [Text("long", "a", "word " * 500), Text("two", "a", "one<|endoftext|>two")]
    everything = tokenize_all(tokenizer, source, CONTEXT)
    some = tokenize(tokenizer, [source], CONTEXT, budget())
    assert everything.truncated == some.truncated != {}
    for document, name in enumerate(everything.rows.document_ids):
        other = some.rows.document_ids.index(name)
        a, b = everything.rows.subset([document]), some.rows.subset([other])
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.mask, b.mask)
    assert not everything.rows.mask.all()


def test_what_was_cut_off_is_said(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_truncation(tokenize_all(tokenizer, texts("a", 3), CONTEXT))
    assert not caplog.text
    warn_of_truncation(tokenize_all(tokenizer, [Text("x", "a", "word " * 500)], CONTEXT))
    assert "1 of 1 documents are longer than the context" in caplog.text
