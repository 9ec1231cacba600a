"""How rows of tokens lie in a flat HDF5 file: columns in groups, with room for checksums.

Behind the HDF5 content stands a short JSON text that says where everything lies, with a checksum
of HDF5's own bytes. HDF5 can hang in a file of which one byte is flipped; so it opens none before
these bytes are known to be right, and reading does without it.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from sdlms.storage.conversations import DamagedFileError, decode_record
from sdlms.storage.files import sync
from sdlms.storage.flat import Array, Blank, create_flat

FORMAT = "sdlms conversation rows"
VERSION = 1
CHECKSUMS = "checksums"
FIRST_ROOM = 256
_END = struct.Struct("<II8s")  # bytes of the JSON text, its crc32, a mark
_MARK = b"TokenRow"
_MOST_TEXT = 1 << 20


class Column(NamedTuple):
    """One array that has a row per token.

    Attributes:
        name: of the data set.
        dtype: as `numpy.dtype.str` has it, byte order included: `<f2`.
        shape: of one token's row.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class RowGroup(NamedTuple):
    """Columns that are written together.

    Attributes:
        name: of the HDF5 group.
        columns: at least one.
        n_parts: checksums of one token's row. 1, or the length of every column's first axis: then
            each entry along that axis can be read and checked alone.
    """

    name: str
    columns: tuple[Column, ...]
    n_parts: int


RowLayout = tuple[RowGroup, ...]


class Place(NamedTuple):
    """Where the rows of a data set lie, in bytes."""

    offset: int
    row_bytes: int


class Places(NamedTuple):
    """What a file says about itself.

    Attributes:
        layout: its groups.
        room: tokens that it has room for.
        of: by group and column (checksums too).
    """

    layout: RowLayout
    room: int
    of: dict[tuple[str, str], Place]


def stored_columns(group: RowGroup) -> Sequence[Column]:
    """The columns of a group and that of its checksums."""
    return (*group.columns, Column(CHECKSUMS, "<u4", (group.n_parts,)))


def create_rows(path: Path, owner: str, layout: RowLayout, n_tokens: int) -> None:
    """Make a file with room for at least `n_tokens` and no row; an old one is replaced.

    The room is allocated by size only: where the file system has sparse files, what is not
    written takes no space.

    Raises:
        OSError: it cannot be written.
    """
    room = FIRST_ROOM
    while room < n_tokens:
        room *= 2
    blanks: dict[str, Array | Blank] = {
        f"/{group.name}/{column.name}": Blank((room, *column.shape), np.dtype(column.dtype))
        for group in layout
        for column in stored_columns(group)
    }
    fresh = path.with_name(f".{path.name}.new")
    try:
        create_flat(fresh, blanks, {"format": FORMAT, "version": VERSION, "owner": owner})
        _append_places(fresh, owner, layout, room)
        fresh.replace(path)
    finally:  # gone already, unless something went wrong
        fresh.unlink(missing_ok=True)
        fresh.with_name(f".{fresh.name}.partial").unlink(missing_ok=True)
    sync(path.parent)


def _append_places(path: Path, owner: str, layout: RowLayout, room: int) -> None:
    """Say at the end of a new file where everything lies."""
    with h5py.File(path, "r") as file:
        places = {
            (group.name, column.name): Place(
                file[f"{group.name}/{column.name}"].id.get_offset(), _row_bytes(column)
            )
            for group in layout
            for column in stored_columns(group)
        }
    content = {"format": FORMAT, "version": VERSION, "owner": owner, "room": room}
    with path.open("r+b") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        checksum = _checksum_between(file.fileno(), n_bytes, room, places)
        content |= {"layout": layout, "n_bytes": n_bytes, "checksum": checksum}
        content["places"] = [(*name, *place) for name, place in places.items()]
        text = json.dumps(content).encode()
        file.write(text + _END.pack(len(text), zlib.crc32(text), _MARK))
        file.flush()
        os.fsync(file.fileno())


def _row_bytes(column: Column) -> int:
    """Bytes of one row."""
    return np.dtype(column.dtype).itemsize * math.prod(column.shape)


def _checksum_between(
    descriptor: int, n_bytes: int, room: int, places: Mapping[tuple[str, str], Place]
) -> int:
    """crc32 of all bytes that belong to no data set."""
    checksum, start = 0, 0
    for offset, row_bytes in [*sorted(places.values()), Place(n_bytes, 0)]:
        checksum = zlib.crc32(os.pread(descriptor, max(0, offset - start), start), checksum)
        start = offset + room * row_bytes
    return checksum


def read_places(path: Path, owner: str) -> Places:
    """Find where everything lies.

    Raises:
        DamagedFileError: the file is damaged, of another version, or not of this owner.
        OSError: the system does not open it (and it may be in order).
    """
    with path.open("rb") as file:
        content = _last_text(file)
        try:
            found = tuple(content[key] for key in ("format", "version", "owner"))
            if found != (FORMAT, VERSION, owner):
                raise DamagedFileError(f"it is {found}")
            places = {(group, name): Place(*place) for group, name, *place in content["places"]}
            layout = tuple(
                RowGroup(name, tuple(Column(c[0], c[1], tuple(c[2])) for c in columns), n_parts)
                for name, columns, n_parts in content["layout"]
            )
            room, n_bytes = content["room"], content["n_bytes"]
            checksum = _checksum_between(file.fileno(), n_bytes, room, places)
            if checksum != content["checksum"]:
                raise DamagedFileError("the checksum of its structure does not fit")
        except (KeyError, IndexError, TypeError, ValueError):  # with the right checksum: not ours
            raise DamagedFileError("it says something else of itself") from None
    return Places(layout, room, places)


def _last_text(file: BinaryIO) -> dict[str, Any]:
    """What the end of a file says."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    end = file.read()
    n_bytes, checksum, mark = _END.unpack(end) if len(end) == _END.size else (0, 0, b"")
    if mark != _MARK or n_bytes > min(_MOST_TEXT, size - _END.size):
        raise DamagedFileError("its end is missing")
    file.seek(size - _END.size - n_bytes)
    text = file.read(n_bytes)
    if zlib.crc32(text) != checksum:
        raise DamagedFileError("the checksum of its end does not fit")
    return decode_record(text)
