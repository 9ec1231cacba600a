from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.storage import firings
from sdlms.storage.firings import Firings, FiringsWriter, Layout, row_bytes

LENGTHS = (3, 1, 6, 2, 5)


def layout_of(n_units: int, lengths: tuple[int, ...] = LENGTHS) -> Layout:
    return Layout(
        units=np.arange(n_units, dtype=np.int64) * 3,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        task_bounds=np.array([0, 2, len(lengths)]),
        task_names=("maths", "prosé"),
    )


def bits_of(layout: Layout, seed: int = 0) -> NDArray[np.bool_]:
    size = (layout.shape[0], len(layout.units))
    return np.random.default_rng(seed).random(size) < 0.3


def written(path: Path, layout: Layout, bits: NDArray[np.bool_], cut: int = 4) -> Firings:
    with FiringsWriter(path, layout) as writer:
        for piece in np.array_split(bits, cut):
            writer.append(piece)
    return Firings(path)


@given(st.integers(0, 20), st.integers(1, 7))
def test_any_documents_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, n_units: int, cut: int
) -> None:
    layout = layout_of(n_units)
    bits = bits_of(layout, n_units)
    found = written(tmp_path_factory.mktemp("firings") / "layer_1.h5", layout, bits, cut)
    assert (found.n_tokens, found.n_documents, found.n_units) == (17, 5, n_units)
    for first in range(6):
        for last in range(first, 6):
            rows = found.read(first, last)
            assert rows.dtype == np.uint8
            assert np.array_equal(rows, bits[layout.offsets[first] : layout.offsets[last]])


def test_the_file_says_what_its_rows_and_columns_are(tmp_path: Path) -> None:
    layout = layout_of(9)
    found = written(tmp_path / "deep" / "layer_1.h5", layout, bits_of(layout))
    for name in ("units", "offsets", "task_bounds", "task_names"):
        assert np.array_equal(getattr(found, name), getattr(layout, name)), name
    assert row_bytes(9) == 2
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["layer_1.h5"]


def test_blocks_cover_each_document_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(4)
    found = written(tmp_path / "layer_1.h5", layout, bits_of(layout))
    assert list(found.blocks(0, 5)) == [(0, 5)]
    monkeypatch.setattr(firings, "BLOCK_TOKENS", 6)
    assert list(found.blocks(0, 5)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(found.blocks(2, 4)) == [(2, 3), (3, 4)]
    assert list(found.blocks(3, 3)) == []


def test_what_is_broken_off_leaves_no_file_and_is_begun_anew(tmp_path: Path) -> None:
    layout, path = layout_of(4), tmp_path / "layer_1.h5"
    bits = bits_of(layout)
    with pytest.raises(KeyboardInterrupt), FiringsWriter(path, layout) as writer:
        writer.append(bits[:9])
        raise KeyboardInterrupt
    assert not path.exists()
    assert np.array_equal(written(path, layout, bits).read(0, 5), bits)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    layout = layout_of(11)
    for name, cut in (("a", 1), ("b", 5)):
        written(tmp_path / name, layout, bits_of(layout), cut)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_that_were_not_announced_are_our_bug(tmp_path: Path) -> None:
    layout, path = layout_of(4), tmp_path / "layer_1.h5"
    bits = bits_of(layout)
    with pytest.raises(ValueError, match="16 of 17 rows"), FiringsWriter(path, layout) as writer:
        writer.append(bits[:16])
    with pytest.raises(ValueError, match="outside"), FiringsWriter(path, layout) as writer:
        writer.append(bits)
        writer.append(bits)
    with pytest.raises(ValueError, match="4 units"), FiringsWriter(path, layout) as writer:
        writer.append(bits[:, :3])
    assert not path.exists()


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_file_that_ends_early_is_one_line(tmp_path: Path, kept: int) -> None:
    path, layout = tmp_path / "layer_1.h5", layout_of(4)
    written(path, layout, bits_of(layout))
    content = path.read_bytes()
    path.write_bytes(content[:kept] if kept >= 0 else content[:-1])
    with pytest.raises(UserError, match=r"layer_1\.h5: damaged, or gone\. .*without --resume"):
        Firings(path)


@pytest.mark.parametrize("part", ["/offsets", "/units", "/tasks", "/bits"])
def test_a_file_that_contradicts_itself_is_one_line(tmp_path: Path, part: str) -> None:
    path, layout = tmp_path / "layer_1.h5", layout_of(9)
    written(path, layout, bits_of(layout))
    with h5py.File(path, "r+") as file:
        values = file[part][:-1]
        del file[part]
        if part != "/tasks":
            file[part] = values
    with pytest.raises(UserError, match="damaged"):
        Firings(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs.update({"format": "sdlms firings", "version": 2})
    with pytest.raises(UserError, match="damaged"):
        Firings(tmp_path / "other.h5")


def test_rows_that_are_cut_off_later_are_one_line(tmp_path: Path) -> None:
    path, layout = tmp_path / "layer_1.h5", layout_of(9)
    found = written(path, layout, bits_of(layout))
    path.write_bytes(path.read_bytes()[:64])
    with pytest.raises(UserError, match="damaged"):
        found.read(0, 5)
    path.unlink()
    with pytest.raises(UserError, match="damaged, or gone"):
        found.read(0, 1)
