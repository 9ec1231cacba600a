import json
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sdlms.storage.conversations import DamagedFileError
from sdlms.storage.row_layout import FIRST_ROOM, create_rows, read_places, stored_columns
from tests.storage.small_rows import LAYOUT


@pytest.mark.parametrize(
    ("n_tokens", "room"),
    [(0, FIRST_ROOM), (FIRST_ROOM, FIRST_ROOM), (FIRST_ROOM + 1, 2 * FIRST_ROOM)],
)
def test_places_are_where_hdf5_has_them(tmp_path: Path, n_tokens: int, room: int) -> None:
    path = tmp_path / "c.h5"
    create_rows(path, "c", LAYOUT, n_tokens)
    places = read_places(path, "c")
    assert (places.layout, places.room) == (LAYOUT, room)
    content = bytearray(path.read_bytes())
    for group in LAYOUT:
        for i, column in enumerate(stored_columns(group), start=1):
            place = places.of[group.name, column.name]
            start = place.offset + 7 * place.row_bytes
            content[start : start + place.row_bytes] = bytes([i]) * place.row_bytes
    path.write_bytes(content)
    with h5py.File(path) as file:
        for group in LAYOUT:
            for i, column in enumerate(stored_columns(group), start=1):
                rows = file[f"{group.name}/{column.name}"][:]
                assert rows.dtype == column.dtype and rows.shape == (room, *column.shape)
                assert set(rows[7].tobytes()) == {i}
                assert not rows[np.arange(room) != 7].any()


def test_a_new_file_takes_hardly_any_space(tmp_path: Path) -> None:
    create_rows(tmp_path / "c.h5", "c", LAYOUT, 100_000)
    status = (tmp_path / "c.h5").stat()
    assert status.st_size > 100_000 * 16
    assert status.st_blocks * 512 < 64 << 10


def test_rows_of_another_owner_are_damaged(tmp_path: Path) -> None:
    create_rows(tmp_path / "c.h5", "d", LAYOUT, 0)
    with pytest.raises(DamagedFileError):
        read_places(tmp_path / "c.h5", "c")


@pytest.mark.parametrize("what", ["empty", "text", "cut", "halved"])
def test_what_is_no_whole_file_is_damaged(tmp_path: Path, what: str) -> None:
    path = tmp_path / "c.h5"
    create_rows(path, "c", LAYOUT, 0)
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "text": b"no HDF5 at all" * 100,
        "cut": whole[:-1],
        "halved": whole[: len(whole) // 2],
    }
    path.write_bytes(contents[what])
    with pytest.raises(DamagedFileError):
        read_places(path, "c")


def test_every_flipped_byte_outside_the_rows_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    create_rows(path, "c", LAYOUT, 0)
    whole = path.read_bytes()
    rows = np.zeros(len(whole), np.bool_)
    places = read_places(path, "c")
    for offset, row_bytes in places.of.values():
        rows[offset : offset + places.room * row_bytes] = True
    generator = np.random.default_rng(0)
    with path.open("r+b", buffering=0) as file:
        for at in np.flatnonzero(~rows)[::7]:
            flipped = whole[at] ^ int(generator.integers(1, 256))
            os.pwrite(file.fileno(), bytes([flipped]), at)
            with pytest.raises(DamagedFileError):
                read_places(path, "c")
            os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert read_places(path, "c") == places


def rewritten(path: Path, change: dict[str, Any]) -> None:
    """Give the text at the end of a file another content, with the right checksum."""
    whole = path.read_bytes()
    n_bytes = int.from_bytes(whole[-16:-12], "little")
    content = json.loads(whole[-16 - n_bytes : -16]) | change
    text = json.dumps(content).encode()
    end = len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + whole[-8:]
    path.write_bytes(whole[: -16 - n_bytes] + text + end)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "other"},
        {"places": [["whole", "ids"]]},
        {"places": None},
        {"layout": [[1]]},
        {"room": "256"},
        {"checksum": 1},
    ],
)
def test_another_version_is_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "c.h5"
    create_rows(path, "c", LAYOUT, 0)
    rewritten(path, {})
    assert read_places(path, "c").layout == LAYOUT
    rewritten(path, change)
    with pytest.raises(DamagedFileError):
        read_places(path, "c")


def test_a_missing_file_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_places(tmp_path / "c.h5", "c")


def test_a_folder_is_the_systems_refusal_or_damage(tmp_path: Path) -> None:
    (tmp_path / "c.h5").mkdir()
    with pytest.raises((DamagedFileError, OSError)):
        read_places(tmp_path / "c.h5", "c")
