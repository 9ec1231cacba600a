import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdlms.storage.rows import document_blocks
from tests.storage.row_samples import some_rows


def test_counts_are_those_of_the_documents() -> None:
    rows = some_rows([3, 0, 5])
    assert (rows.n_tokens, rows.n_documents, rows.lengths.tolist()) == (8, 3, [3, 0, 5])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.data())
def test_a_subset_holds_its_documents_rows(lengths: list[int], data: st.DataObject) -> None:
    rows = some_rows(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    subset = rows.subset(chosen)
    assert subset.document_ids == [rows.document_ids[d] for d in chosen]
    for place, document in enumerate(chosen):
        own = slice(subset.offsets[place], subset.offsets[place + 1])
        whole = slice(rows.offsets[document], rows.offsets[document + 1])
        assert np.array_equal(subset.ids[own], rows.ids[whole])
        assert np.array_equal(subset.mask[own], rows.mask[whole])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 50))
def test_blocks_cover_every_document_once(lengths: list[int], block_tokens: int) -> None:
    offsets = some_rows(lengths).offsets
    blocks = list(document_blocks(offsets, block_tokens))
    assert [d for first, last in blocks for d in range(first, last)] == list(range(len(lengths)))
    for first, last in blocks:
        assert last == first + 1 or offsets[last] - offsets[first] <= block_tokens
