"""Rows are read where they lie, and every byte is counted."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage.activations import Header, create_activations
from sdlms.storage.flat import FlatWriter
from sdlms.storage.row_file import IDS, MASK, OpenRows, RowFile, falls, find_rows
from sdlms.storage.rows import Rows

N = 1500
LAYER = "/resid_post/layer_2"
HEADER = Header(
    model="m",
    revision="",
    units={("mlp_act", 2): 4, ("resid_post", 2): 3},
    store_dtype={"mlp_act": "float32", "resid_post": "bfloat16"},
    activation_function="gelu",
    gated=False,
)
ROWS = Rows(
    ids=np.arange(N, dtype=np.int32),
    mask=(np.arange(N) % 3 > 0).astype(np.uint8),
    offsets=np.array([0, 500, 500, N]),
    document_ids=["a", "b", "c"],
    document_tasks=["x", "y", "x"],
)
BITS = np.random.default_rng(0).integers(0, 2**16, (N, 3)).astype(np.uint16)
NEURONS = np.random.default_rng(1).normal(size=(N, 4)).astype(np.float32)


def written(path: Path) -> RowFile:
    create_activations(path, HEADER, ROWS)
    with FlatWriter(path) as writer:
        writer.write(LAYER, 0, BITS)
        writer.write("/mlp_act/layer_2", 0, NEURONS)
    return find_rows(path)


def read(file: RowFile, rows: OpenRows, name: str, first: int, last: int) -> np.ndarray:
    raw = np.empty((last - first, file.places[name].row_bytes), dtype=np.uint8)
    rows.read_into(name, first, [raw])
    return raw


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> RowFile:
    return written(tmp_path_factory.mktemp("rows") / "a.h5")


def test_a_file_says_what_is_in_it(file: RowFile) -> None:
    assert file.header == HEADER
    assert np.array_equal(file.offsets, ROWS.offsets)
    assert (file.document_ids, file.document_tasks) == (("a", "b", "c"), ("x", "y", "x"))
    assert set(file.places) == {LAYER, "/mlp_act/layer_2", MASK, IDS}


@given(st.integers(0, N), st.integers(0, N))
def test_rows_are_read_and_counted(file: RowFile, one: int, other: int) -> None:
    first, last = sorted((one, other))
    with file.open() as rows:
        assert rows.bytes_read == 0
        for name, values in ((LAYER, BITS), ("/mlp_act/layer_2", NEURONS), (IDS, ROWS.ids)):
            before = rows.bytes_read
            assert read(file, rows, name, first, last).tobytes() == values[first:last].tobytes()
            assert rows.bytes_read - before == values[first:last].nbytes


@given(st.lists(st.integers(0, 4), max_size=700), st.integers(0, 100))
def test_one_read_fills_many_buffers(file: RowFile, sizes: list[int], first: int) -> None:
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= N - first]
    buffers = [np.zeros((size, 3), dtype=np.uint16) for size in sizes]
    with file.open() as rows:
        rows.read_into(LAYER, first, buffers)
        assert rows.bytes_read == sum(buffer.nbytes for buffer in buffers)
    expected = BITS[first : first + sum(sizes)]
    assert np.array_equal(np.concatenate([np.zeros((0, 3), np.uint16), *buffers]), expected)


def test_a_read_that_stops_half_way_goes_on(file: RowFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may give fewer bytes than were asked for."""
    preadv = os.preadv

    def few(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [buffers[0][: min(7, len(buffers[0]))]], offset)

    monkeypatch.setattr(os, "preadv", few)
    buffers = [np.zeros((size, 3), dtype=np.uint16) for size in (1, 5, 0, 9)]
    with file.open() as rows:
        rows.read_into(LAYER, 10, buffers)
        assert rows.bytes_read == 15 * 6
    assert np.array_equal(np.concatenate(buffers), BITS[10:25])


def test_what_is_expected_is_not_read(file: RowFile) -> None:
    with file.open() as rows:
        rows.expect(LAYER, 0, N)
        assert rows.bytes_read == 0


def test_the_file_is_closed_however_the_block_ends(file: RowFile) -> None:
    def n_open() -> int:
        folder = Path("/proc/self/fd")
        return len(list(folder.iterdir())) if folder.exists() else 0

    before = n_open()
    with pytest.raises(KeyError), file.open():
        raise KeyError
    with file.open():
        pass
    assert n_open() == before


def test_another_file_of_that_name_is_noticed(tmp_path: Path) -> None:
    held = written(tmp_path / "a.h5")
    with held.open() as rows:
        read(held, rows, LAYER, 0, 1)
    (tmp_path / "a.h5").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.h5 \(No such file"), held.open():
        pass
    written(tmp_path / "a.h5")
    with pytest.raises(UserError, match="changed since it was loaded"), held.open():
        pass


def test_a_file_that_ends_early_is_one_clear_line(tmp_path: Path) -> None:
    held = written(tmp_path / "a.h5")
    with held.open() as rows:
        os.truncate(tmp_path / "a.h5", held.places[LAYER].offset + 5)
        with pytest.raises(UserError, match="ends early: it is damaged"):
            read(held, rows, LAYER, 0, 2)


@pytest.mark.parametrize(
    "part", ["/documents/id", "/tokens/mask", "/tokens", "/resid_post/layer_2"]
)
def test_a_missing_part_is_one_clear_line(tmp_path: Path, part: str) -> None:
    written(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file[part]
    with pytest.raises(UserError, match="damaged, or another program's") as refused:
        find_rows(tmp_path / "a.h5")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_any_cut_is_one_clear_line(tmp_path: Path, share: float) -> None:
    written(tmp_path / "a.h5")
    os.truncate(tmp_path / "a.h5", int((tmp_path / "a.h5").stat().st_size * share))
    with pytest.raises(UserError, match=r"cannot read .*a\.h5: it is damaged") as refused:
        find_rows(tmp_path / "a.h5")
    assert "\n" not in str(refused.value)


def test_a_folder_or_nothing_is_one_clear_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.h5"):
        with pytest.raises(UserError, match="cannot read") as refused:
            find_rows(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 600, 500, N],
        [1, 500, 500, N],
        [0, 500, N],
        [],
        [0, 1, 2, 3, N],
        [0, -(1 << 63), -1, N],
        3,
    ],
)
def test_documents_that_contradict_their_rows_are_one_line(
    tmp_path: Path, offsets: list[int] | int
) -> None:
    written(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["/tokens/offsets"]
        file["/tokens/offsets"] = np.array(offsets, dtype=np.int64)
    with pytest.raises(UserError, match="damaged, or another program's"):
        find_rows(tmp_path / "a.h5")


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_numbers_fall_where_they_are_not_sorted(numbers: list[int]) -> None:
    assert falls(np.array(numbers, dtype=np.int64)) == (numbers != sorted(numbers))
