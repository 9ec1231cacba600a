"""Named arrays in safetensors: the same back, byte-stable, damage named."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.storage.tensors import read_tensors, write_tensors

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(2.5),
    "c": np.array([-1, 7]),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "flags": np.array([True, False]),
    "strided": np.arange(12.0).reshape(3, 4).T,
}
METADATA = {f"key {i}": f"ä {i}" for i in range(9)}


def test_arrays_and_metadata_come_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", ARRAYS, METADATA)
    arrays, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == METADATA
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert np.array_equal(arrays[name], array)


def test_the_bytes_depend_on_no_order(tmp_path: Path) -> None:
    for i in range(5):
        names = sorted(ARRAYS, reverse=i % 2 == 0)
        keys = sorted(METADATA, reverse=i % 2 == 1)
        arrays = {name: ARRAYS[name] for name in names}
        write_tensors(tmp_path / f"{i}", arrays, {key: METADATA[key] for key in keys})
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(5)}) == 1


def test_files_of_others_have_no_metadata(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": ARRAYS["b"]}, tmp_path / "t")
    arrays, metadata = read_tensors(tmp_path / "t")
    assert metadata == {}
    assert np.array_equal(arrays["a"], ARRAYS["b"])


def test_damage_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(UserError, match="no such file"):
        read_tensors(path)
    write_tensors(path, ARRAYS, METADATA)
    content = path.read_bytes()
    for damaged in (content[:-3], content[:5], b"", b"x" * 200):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            read_tensors(path)
