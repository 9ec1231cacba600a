from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage.activations import (
    ActivationsReader,
    Header,
    create_activations,
    dataset_name,
    predicted_bytes,
)
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows, document_blocks


def some_rows(lengths: list[int]) -> Rows:
    n_tokens = sum(lengths)
    return Rows(
        ids=np.arange(n_tokens, dtype=np.int32),
        mask=(np.arange(n_tokens) % 3 > 0).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(lengths))],
        document_tasks=["maths" if i % 2 else "prosé" for i in range(len(lengths))],
    )


HEADER = Header(
    model="m",
    revision="",
    units={("mlp_act", 1): 4, ("resid_post", 1): 3},
    store_dtype={"mlp_act": "float16", "resid_post": "bfloat16"},
    activation_function="gelu",
    gated=False,
    control="reinit",
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows, path = some_rows([3, 0, 5]), tmp_path / "activations.h5"
    create_activations(path, HEADER, rows)
    neurons = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float16)
    stream = np.arange(24, dtype=np.uint16).reshape(8, 3)
    with FlatWriter(path) as writer:
        writer.write("/mlp_act/layer_1", 0, neurons)
        writer.write("/resid_post/layer_1", 0, stream)
    with ActivationsReader(path) as reader:
        found = reader.rows()
        assert np.array_equal(reader.read(("mlp_act", 1), 2, 6), neurons[2:6])
        assert np.array_equal(reader.read(("resid_post", 1), 0, 8), stream)
        assert reader.store_dtype(("resid_post", 1)) == "bfloat16"
        assert reader.attributes["model"] == "m"
        assert reader.attributes["control"] == "reinit"
        assert list(reader.attributes["sites"]) == ["mlp_act", "resid_post"]
    for name in ("ids", "mask", "offsets"):
        assert np.array_equal(getattr(found, name), getattr(rows, name))
    assert found.document_ids == rows.document_ids
    assert found.document_tasks == rows.document_tasks


def test_predicted_bytes_is_what_the_data_take(tmp_path: Path) -> None:
    rows, path = some_rows([300, 500]), tmp_path / "activations.h5"
    create_activations(path, HEADER, rows)
    with h5py.File(path) as file:
        stored = sum(file[dataset_name(key)].nbytes for key in HEADER.units)
    assert predicted_bytes(HEADER, rows.n_tokens) == stored
    assert path.stat().st_size >= stored


@pytest.mark.parametrize(("attribute", "value"), [("version", 2), ("format", "other")])
def test_an_unknown_format_is_refused_in_one_line(
    tmp_path: Path, attribute: str, value: object
) -> None:
    path = tmp_path / "activations.h5"
    create_activations(path, HEADER, some_rows([2]))
    with h5py.File(path, "a") as file:
        file.attrs[attribute] = value
    with pytest.raises(UserError, match="this sdlms reads 'sdlms activations' version 1"):
        ActivationsReader(path)


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
