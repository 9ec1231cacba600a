"""HDF5 files whose rows are written by offset: preallocated once, then plain positioned writes.

A file that is killed while HDF5 holds it open may never open again. So the file is created with
its full size, flushed, synced and closed; after that every contiguous data set is a byte range,
and rows are written into it without HDF5. Such writes are idempotent: a resumed run repeats
the rows after its last checkpoint and ends with the same bytes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.storage.files import sync, write_errors

Array = NDArray[np.generic]
Attributes = Mapping[str, str | int | bool | list[str] | list[int]]


@dataclass(frozen=True)
class Blank:
    """A data set to be filled later by offset."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    attributes: Attributes | None = None


def create_flat(path: Path, datasets: Mapping[str, Array | Blank], attributes: Attributes) -> None:
    """Create the file with its full size, synced and closed.

    Args:
        path: must not exist yet under its final name; an unfinished file is replaced.
        datasets: arrays are written now, blanks are allocated only. Names are full paths.
        attributes: of the file.

    Raises:
        OSError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        _create(temporary, datasets, attributes)
    except RuntimeError:  # h5py, where HDF5 cannot even close what it could not write
        raise OSError("no room for it; is the disk full?") from None
    temporary.replace(path)
    sync(path.parent)


def _create(path: Path, datasets: Mapping[str, Array | Blank], attributes: Attributes) -> None:
    """Write what is there already, and allocate the rest."""
    with h5py.File(path, "w", libver="v110") as file:
        file.attrs.update(attributes)
        for name, content in datasets.items():
            if isinstance(content, Blank):
                _allocate(file, name, content)
            else:
                file.create_dataset(name, data=content)
    sync(path)


def _allocate(file: h5py.File, name: str, blank: Blank) -> None:
    """A contiguous data set whose bytes have a place in the file at once, unfilled."""
    group = file.require_group(name.rpartition("/")[0] or "/")
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    created = h5py.h5d.create(
        group.id,
        name.rpartition("/")[2].encode(),
        h5py.h5t.py_create(blank.dtype),
        h5py.h5s.create_simple(blank.shape),
        dcpl=plist,
    )
    h5py.Dataset(created).attrs.update(blank.attributes or {})


class FlatWriter:
    """Writes rows of a file made by `create_flat`; threads may write different rows at once."""

    def __init__(self, path: Path) -> None:
        """Look up where each data set lies, then let go of HDF5."""
        self.path = path
        self._places: dict[str, tuple[int, int, np.dtype[np.generic], tuple[int, ...]]] = {}
        with h5py.File(path, "r") as file:
            file.visititems(self._note_place)
        self._descriptor = os.open(path, os.O_WRONLY)

    def _note_place(self, name: str, item: h5py.Dataset | h5py.Group) -> None:
        """Remember offset and row size of one data set."""
        if isinstance(item, h5py.Dataset) and item.size:
            row = int(np.prod(item.shape[1:], dtype=np.int64)) * item.dtype.itemsize
            self._places[f"/{name}"] = (item.id.get_offset(), row, item.dtype, item.shape)

    def write(self, name: str, first_row: int, rows: Array) -> None:
        """Write `rows` from `first_row` on.

        Raises:
            ValueError: the rows have another dtype or width, or do not fit.
            UserError: the disk is full.
        """
        if rows.shape[0] == 0:
            return
        offset, row_bytes, dtype, shape = self._places[name]
        if rows.dtype != dtype or rows.shape[1:] != shape[1:]:
            raise ValueError(f"{name} holds {dtype} {shape}, got {rows.dtype} {rows.shape}")
        if not 0 <= first_row <= shape[0] - rows.shape[0]:
            raise ValueError(f"{name}: rows {first_row}+{rows.shape[0]} are outside {shape}")
        self._write_bytes(offset + first_row * row_bytes, np.ascontiguousarray(rows))

    def _write_bytes(self, offset: int, rows: Array) -> None:
        """Write all bytes, however many calls that takes."""
        rest = rows.reshape(-1).view(np.uint8).data
        while rest:
            with write_errors(self.path):
                written = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def sync(self) -> None:
        """Flush everything written so far to the disk.

        Raises:
            UserError: the disk is full.
        """
        with write_errors(self.path):
            os.fsync(self._descriptor)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a data set that is not empty."""
        return self._places[name][3]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the file back; publishing the run syncs it."""
        os.close(self._descriptor)
