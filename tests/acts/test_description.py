import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.acts.description import DIMS, STORE_DTYPES, Description, Ranges, whole
from sdlms.storage.activations import Header

HEADER = Header("", "", {}, {}, "", gated=False)


def description(lengths: list[int], dims: str = "blsh") -> Description:
    return Description(
        dims=dims,
        site="acts",
        layers=(0,),
        n_units=1,
        dtype=torch.float32,
        lengths=np.array(lengths, dtype=np.int64),
        document_ids=list(map(str, lengths)),
        document_tasks=[""] * len(lengths),
        header=HEADER,
    )


def test_axes_are_told_by_their_letters() -> None:
    found = {dims: (description([1], dims).has_layers, description([1], dims).has_tokens)
             for dims in DIMS}  # fmt: skip
    assert found == {
        "bh": (False, False),
        "bsh": (False, True),
        "blh": (True, False),
        "blsh": (True, True),
    }


def test_stored_types_are_those_that_files_know() -> None:
    assert [str(dtype) for dtype in STORE_DTYPES] == [f"torch.{n}" for n in STORE_DTYPES.values()]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_ranges_find_their_rows(lengths: list[int], data: st.DataObject) -> None:
    """Against a list of every row's document and place."""
    source = description(lengths)
    rows = [(d, i) for d, length in enumerate(lengths) for i in range(length)]
    chosen = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1))), dtype=np.int64)
    ranges = whole(source, chosen)
    assert len(ranges) == len(chosen)
    assert ranges.n_rows == sum(lengths[d] for d in chosen)
    assert ranges.offsets.tolist() == [sum(lengths[d] for d in chosen[:i])
                                       for i in range(len(chosen) + 1)]  # fmt: skip
    for document, start, length in zip(
        chosen, ranges.starts(source.offsets), ranges.lengths, strict=True
    ):
        assert rows[start : start + length] == [(document, i) for i in range(lengths[document])]


def test_parts_of_ranges_keep_their_places() -> None:
    ranges = Ranges(np.array([2, 0, 1]), np.array([1, 0, 3]), np.array([2, 4, 0]))
    part = ranges.at(np.array([2, 0]))
    assert (part.documents.tolist(), part.first.tolist(), part.lengths.tolist()) == (
        [1, 2], [3, 1], [0, 2],
    )  # fmt: skip
    assert part.starts(np.array([0, 10, 20, 30])).tolist() == [13, 21]
    assert ranges.at(slice(0, 1)).documents.tolist() == [2]
