from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.storage.activations import (
    POOLED,
    ActivationsReader,
    Header,
    create_activations,
    dataset_name,
    predicted_bytes,
)
from sdlms.storage.flat import FlatWriter
from tests.storage.row_samples import some_rows

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


# Results that were saved: other axes, pooled layers, history

SHAPES: list[tuple[str, tuple[int, ...], tuple[str, ...], tuple[int, ...]]] = [
    ("blsh", (4, 2), (), ()),
    ("bsh", (4,), (), ()),
    ("bsh", (POOLED,), ("max l",), (4, 2)),
    ("blh", (2, 4), ("mean s",), ()),
    ("bh", (7,), ("last s",), ()),
    ("bh", (POOLED,), ("mean s", "sum l"), (0, 3)),
]


def pooled_header(
    dims: str, layers: tuple[int, ...], pools: tuple[str, ...], pooled: tuple[int, ...]
) -> Header:
    return replace(
        HEADER,
        units={("resid_post", layer): 3 for layer in layers},
        store_dtype={"resid_post": "bfloat16"},
        dims=dims,
        pools=pools,
        pooled_layers=pooled,
        origin="0123/45",
    )


@pytest.mark.parametrize(("dims", "layers", "pools", "pooled"), SHAPES)
def test_a_header_is_read_as_it_was_written(
    tmp_path: Path,
    dims: str,
    layers: tuple[int, ...],
    pools: tuple[str, ...],
    pooled: tuple[int, ...],
) -> None:
    header, rows = pooled_header(dims, layers, pools, pooled), some_rows([3, 0, 5])
    create_activations(tmp_path / "a.h5", header, rows)
    with ActivationsReader(tmp_path / "a.h5") as reader:
        assert reader.header() == header
        assert header.layers == list(pooled or layers)
        assert reader.documents("id") == rows.document_ids
        assert reader.documents("task") == rows.document_tasks
        expected = rows.offsets if "s" in dims else np.arange(4)
        assert np.array_equal(reader.offsets(), expected)
    with h5py.File(tmp_path / "a.h5") as file:
        assert ("tokens" in file) == ("s" in dims)
        shapes = {file[dataset_name(key)].shape for key in header.units}
        assert shapes == {(8 if "s" in dims else 3, 3)}


@pytest.mark.parametrize("lengths", [[], [0, 0], [1]])
def test_nothing_can_be_written_too(tmp_path: Path, lengths: list[int]) -> None:
    rows = some_rows(lengths)
    for dims in ("blsh", "blh"):
        path = tmp_path / f"{dims}.h5"
        create_activations(path, replace(HEADER, dims=dims), rows)
        with ActivationsReader(path) as reader:
            assert reader.header() == replace(HEADER, dims=dims)
            assert reader.documents("id") == rows.document_ids
            assert len(reader.offsets()) == len(lengths) + 1
            assert reader.place("/mlp_act/layer_1").row_bytes == 8


def test_rows_lie_where_it_is_said(tmp_path: Path) -> None:
    rows, path = some_rows([3, 5]), tmp_path / "a.h5"
    create_activations(path, HEADER, rows)
    neurons = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float16)
    with FlatWriter(path) as writer:
        writer.write("/mlp_act/layer_1", 0, neurons)
    with ActivationsReader(path) as reader:
        for name, values in (("/mlp_act/layer_1", neurons), ("/tokens/ids", rows.ids)):
            place = reader.place(name)
            found = path.read_bytes()[place.offset : place.offset + 8 * place.row_bytes]
            assert found == values.tobytes()


@pytest.mark.parametrize("options", [{"chunks": (2, 3)}, {"chunks": (2, 3), "compression": "gzip"}])
def test_rows_that_lie_nowhere_are_refused_in_one_line(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path = tmp_path / "a.h5"
    create_activations(path, HEADER, some_rows([4]))
    with h5py.File(path, "a") as file:
        del file["/resid_post/layer_1"]
        file.create_dataset("/resid_post/layer_1", data=np.ones((4, 3), np.uint16), **options)
    with (
        ActivationsReader(path) as reader,
        pytest.raises(UserError, match=r"layer_1 is chunked or compressed; .*h5repack -l CONTI"),
    ):
        reader.place("/resid_post/layer_1")
