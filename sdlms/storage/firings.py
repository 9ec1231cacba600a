"""A scratch file of one layer: on which tokens each unit fires, one bit per token and unit.

```
/bits      [token, byte]    uint8, units along the row as `numpy.packbits` has them
/units     [unit]           int64, which of the layer's
/offsets   [document + 1]   int64: document d owns rows offsets[d] .. offsets[d + 1]
/bounds    [task + 1]       int64: task t owns documents bounds[t] .. bounds[t + 1]
/tasks     [task]           their names, fixed-length UTF-8 bytes
```
Only what statistics read has a row. It is written under another name and renamed when all of it is
there, so that a killed run leaves no half of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.errors import ANEW, UserError
from sdlms.storage.files import sync, write_errors
from sdlms.storage.flat import Array, Blank, FlatWriter, create_flat
from sdlms.storage.rows import document_blocks

FORMAT = "sdlms firings"
VERSION = 1
BLOCK_TOKENS = 4096
BITS = "/bits"


@dataclass(frozen=True, eq=False)
class Layout:
    """What the rows and columns of the file are.

    Attributes:
        units: `[unit]` int64, which of the layer's.
        offsets: `[document + 1]` int64, rows of each document; documents lie task by task.
        task_bounds: `[task + 1]` int64, documents of each task.
        task_names: of each task.
    """

    units: NDArray[np.int64]
    offsets: NDArray[np.int64]
    task_bounds: NDArray[np.int64]
    task_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and bytes of each."""
        return int(self.offsets[-1]), row_bytes(len(self.units))


def row_bytes(n_units: int) -> int:
    """Bytes of a token."""
    return -(-n_units // 8)


class Firings:
    """A finished file, read by documents.

    Attributes:
        units: `[unit]` int64, which of the layer's.
        offsets: `[document + 1]` int64, rows of each document; documents lie task by task.
        task_bounds: `[task + 1]` int64, documents of each task.
        task_names: of each task.
    """

    def __init__(self, path: Path) -> None:
        """Read what the file says about itself, no row.

        Raises:
            UserError: it cannot be read, or is damaged.
        """
        self.path = path
        layout, self._start = _read_layout(path)
        self.units, self.offsets = layout.units, layout.offsets
        self.task_bounds, self.task_names = layout.task_bounds, layout.task_names
        self._row_bytes = row_bytes(len(self.units))

    @property
    def n_tokens(self) -> int:
        """Rows."""
        return int(self.offsets[-1])

    @property
    def n_documents(self) -> int:
        """Documents, each of at least one row."""
        return len(self.offsets) - 1

    @property
    def n_units(self) -> int:
        """Units."""
        return len(self.units)

    def read(self, first: int, last: int) -> NDArray[np.uint8]:
        """The rows of documents `first .. last - 1`.

        Returns:
            `[row, unit]` uint8, 1 where the unit fires.

        Raises:
            UserError: the file is gone, or ends before.
        """
        begin, end = self.offsets[[first, last]].tolist()
        n_bytes = (end - begin) * self._row_bytes
        try:
            start = self._start + begin * self._row_bytes
            packed = np.fromfile(self.path, dtype=np.uint8, count=n_bytes, offset=start)
        except OSError:
            packed = np.empty(0, dtype=np.uint8)
        if len(packed) != n_bytes:
            raise _damaged(self.path)
        rows = packed.reshape(end - begin, self._row_bytes)
        return np.unpackbits(rows, axis=1, count=self.n_units)

    def blocks(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cut documents `first .. last - 1` into runs `(first, last)` of about 4,096 rows."""
        for begin, end in document_blocks(self.offsets[first : last + 1], BLOCK_TOKENS):
            yield first + begin, first + end


class FiringsWriter:
    """Writes the file row by row; `path` is there when the block has ended well, not before."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Make room for all of it.

        Raises:
            UserError: it cannot be written, as on a full disk.
        """
        self._path, self._layout, self._n_rows = path, layout, 0
        self._unfinished = path.with_name(f"{path.name}.unfinished")
        names = np.array([name.encode() for name in layout.task_names])
        datasets: dict[str, Array | Blank] = {
            BITS: Blank(layout.shape, np.dtype(np.uint8)),
            "/units": layout.units,
            "/offsets": layout.offsets,
            "/bounds": layout.task_bounds,
            "/tasks": names,
        }
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            create_flat(self._unfinished, datasets, {"format": FORMAT, "version": VERSION})
        self._writer = FlatWriter(self._unfinished)

    def append(self, firing: NDArray[np.bool_]) -> None:
        """Write the rows that follow, `[row, unit]`.

        Raises:
            UserError: the disk is full.
            ValueError: there are more rows or other columns than were announced.
        """
        if firing.shape[1] != len(self._layout.units):
            raise ValueError(f"{len(self._layout.units)} units were announced: {firing.shape}")
        if firing.size:
            self._writer.write(BITS, self._n_rows, np.packbits(firing, axis=1))
        self._n_rows += len(firing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the file its name, if all went well.

        Raises:
            ValueError: rows are missing.
        """
        with self._writer:
            if kind is None:
                self._writer.sync()
        if kind is None:
            if self._n_rows != self._layout.shape[0]:
                raise ValueError(f"{self._n_rows} of {self._layout.shape[0]} rows were written")
            with write_errors(self._path):
                self._unfinished.replace(self._path)
                sync(self._path.parent)


def _read_layout(path: Path) -> tuple[Layout, int]:
    """What the rows are, and where in the file they begin."""
    try:
        with h5py.File(path, "r") as file:
            if (file.attrs.get("format"), file.attrs.get("version")) != (FORMAT, VERSION):
                raise _damaged(path)
            names: Sequence[bytes] = file["/tasks"][:]
            layout = Layout(
                units=file["/units"][:],
                offsets=file["/offsets"][:],
                task_bounds=file["/bounds"][:],
                task_names=tuple(name.decode() for name in names),
            )
            bits = file[BITS]
            if bits.shape != layout.shape or bits.dtype != np.uint8:
                raise _damaged(path)
            return layout, int(bits.id.get_offset() or 0)
    # By which HDF5 says that the file ends early, or that a part is missing.
    except (OSError, KeyError, RuntimeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> UserError:
    """What there is to say of a scratch file that cannot be read."""
    return UserError(f"{path}: damaged, or gone. {ANEW}")
