"""What is appended in pieces, cut off and appended again is one file, always the same bytes."""

import errno
import os
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage import sparse_acts
from sdlms.storage.row_file import find_rows
from sdlms.storage.rows import Rows
from sdlms.storage.sparse_acts import (
    Entries,
    SparseAppender,
    SparseHeader,
    assemble,
    find_sparse_rows,
    is_sparse,
    part_name,
    predicted_bytes,
)
from tests.storage.row_samples import some_rows

WIDTH = 6
HEADER = SparseHeader(
    model="m",
    revision="abc",
    site="mlp_act",
    width=WIDTH,
    members={2: "l1_1_seed0", 5: "k_3_seed1"},
    sae="20261120_143022_sae-train",
    control="reinit",
)
LENGTHS = [3, 0, 5, 1]


def random_latents(n_rows: int, seed: int, share: float = 0.4) -> np.ndarray:
    """`[row, latent]`, most of it 0."""
    dice = np.random.default_rng(seed)
    active = dice.random((n_rows, WIDTH)) < share
    return (active * dice.uniform(0.1, 2.0, active.shape)).astype(np.float32)


def entries_of(latents: np.ndarray) -> Entries:
    rows, columns = latents.nonzero()
    counts = np.bincount(rows, minlength=len(latents)).astype(np.int32)
    return Entries(counts, columns.astype(np.int32), latents[rows, columns])


def write(folder: Path, rows: Rows, latents: dict[int, np.ndarray], cuts: list[int]) -> Path:
    """Append in pieces, and assemble."""
    folder.mkdir(exist_ok=True)
    for layer, dense in latents.items():
        with SparseAppender(folder, layer, 0, 0) as appender:
            for piece in np.split(dense, cuts):
                appender.append(entries_of(piece))
            appender.sync()
            assert appender.n_rows == len(dense)
            assert appender.n_entries == np.count_nonzero(dense)
    assemble(folder / "sparse_acts.h5", HEADER, rows, folder)
    return folder / "sparse_acts.h5"


def dense_of(file: h5py.File, layer: int) -> np.ndarray:
    """The latents, row by row."""
    indptr, indices, values = (
        file[part_name(layer, part)][:] for part in ("indptr", "indices", "values")
    )
    dense = np.zeros((len(indptr) - 1, WIDTH), dtype=np.float32)
    for row, (first, last) in enumerate(pairwise(indptr)):
        assert (np.diff(indices[first:last]) > 0).all()
        dense[row, indices[first:last]] = values[first:last]
    return dense


@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0], [], [1]])
def test_what_is_written_is_read_back(tmp_path: Path, lengths: list[int]) -> None:
    rows = some_rows(lengths)
    latents = {2: random_latents(rows.n_tokens, 0), 5: np.zeros((rows.n_tokens, WIDTH), np.float32)}
    path = write(tmp_path, rows, latents, [])
    with h5py.File(path) as file:
        for layer, expected in latents.items():
            assert np.array_equal(dense_of(file, layer), expected)
            starts = file[part_name(layer, "document_starts")][:]
            assert np.array_equal(starts, file[part_name(layer, "indptr")][:][rows.offsets])
            types = {part: str(file[part_name(layer, part)].dtype) for part in sparse_acts.DTYPES}
            assert types == sparse_acts.DTYPES
        assert np.array_equal(file["/tokens/ids"][:], rows.ids)
        assert np.array_equal(file["/tokens/mask"][:], rows.mask)
        assert np.array_equal(file["/tokens/offsets"][:], rows.offsets)
        assert [i.decode() for i in file["/documents/task"][:]] == rows.document_tasks
        found = dict(file.attrs)
    assert (found["format"], found["version"]) == ("sdlms sparse activations", 1)
    assert (found["model"], found["revision"], found["site"]) == ("m", "abc", "mlp_act")
    assert (found["sae"], found["control"]) == ("20261120_143022_sae-train", "reinit")
    assert list(found["layers"]) == [2, 5]
    assert list(found["widths"]) == [WIDTH, WIDTH]
    assert list(found["members"]) == ["l1_1_seed0", "k_3_seed1"]


def test_it_says_of_itself_what_acts_need(tmp_path: Path) -> None:
    rows = some_rows(LENGTHS)
    latents = {layer: random_latents(9, layer) for layer in (2, 5)}
    found = find_sparse_rows(write(tmp_path, rows, latents, []))
    assert found.header.units == {("sae_latents", 2): WIDTH, ("sae_latents", 5): WIDTH}
    assert found.header.store_dtype == {"sae_latents": "float32"}
    assert (found.header.model, found.header.control) == ("m", "reinit")
    assert found.document_ids == tuple(rows.document_ids)
    assert np.array_equal(found.offsets, rows.offsets)


@given(
    st.lists(st.integers(0, 20), max_size=4).map(sorted),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 3),
)
def test_rows_behind_a_checkpoint_are_dropped_and_come_again(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], first: int, more: int, seed: int
) -> None:
    """Killed anywhere behind a checkpoint, the second try gives the bytes of the first."""
    folder, rows, dense = tmp_path_factory.mktemp("a"), some_rows([20]), random_latents(20, seed)
    latents = {2: dense, 5: dense[::-1].copy()}
    whole = write(folder / "whole", rows, latents, cuts).read_bytes()
    for layer, each in latents.items():
        with SparseAppender(folder, layer, 0, 0) as appender:
            appender.append(entries_of(each[:first]))
            checkpoint = appender.n_rows, appender.n_entries
            appender.append(entries_of(each[first : first + more]))
        with SparseAppender(folder, layer, *checkpoint) as appender:
            appender.append(entries_of(each[first:]))
    for _ in range(2):  # the second assembly replaces what the first left, whole or not
        assemble(folder / "sparse_acts.h5", HEADER, rows, folder)
        assert (folder / "sparse_acts.h5").read_bytes() == whole
        os.truncate(folder / "sparse_acts.h5", len(whole) // 2)


def test_copying_in_small_pieces_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, latents = some_rows(LENGTHS), {n: random_latents(9, n) for n in (2, 5)}
    whole = write(tmp_path / "a", rows, latents, []).read_bytes()
    monkeypatch.setattr(sparse_acts, "COPIED_ENTRIES", 2)
    assert write(tmp_path / "b", rows, latents, [4]).read_bytes() == whole


def test_missing_rows_are_our_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not hold 9 rows"):
        write(tmp_path, some_rows(LENGTHS), {n: random_latents(8, n) for n in (2, 5)}, [])


def test_the_prediction_is_what_everything_takes(tmp_path: Path) -> None:
    rows = some_rows([4000])
    latents = {n: random_latents(4000, n) for n in (2, 5)}
    path = write(tmp_path, rows, latents, [])
    taken = sum(file.stat().st_size for file in tmp_path.iterdir())
    predicted = sum(predicted_bytes(4000, np.count_nonzero(each)) for each in latents.values())
    assert predicted <= taken <= predicted + 5 * rows.n_tokens + 20_000
    assert path.stat().st_size < predicted


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with SparseAppender(tmp_path, 2, 0, 0) as appender:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError, match=r"cannot write .*layer_2.counts: No space left"):
            appender.append(entries_of(random_latents(3, 0)))


def test_formats_are_told_apart(tmp_path: Path) -> None:
    latents = {layer: random_latents(9, layer) for layer in (2, 5)}
    path = write(tmp_path, some_rows(LENGTHS), latents, [])
    assert is_sparse(path)
    with pytest.raises(UserError, match="'sdlms sparse activations' version 1; this sdlms reads"):
        find_rows(path)
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 2
    with pytest.raises(UserError, match="version 2; this sdlms reads 'sdlms sparse activations'"):
        find_sparse_rows(path)
    for content in (b"", b"text"):
        (tmp_path / "other.h5").write_bytes(content)
        assert not is_sparse(tmp_path / "other.h5")
    assert not is_sparse(tmp_path / "absent.h5")
