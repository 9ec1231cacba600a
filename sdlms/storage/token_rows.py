"""Rows of a conversation's tokens in a flat HDF5 file, each with a checksum written after it.

A row that was torn by a crash, or flipped on the disk, is seen when it is read. Where the room
ends, the rows move to a file with twice the room, which takes the old one's name.
"""

import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.storage.files import sync
from sdlms.storage.flat import Array, FlatWriter
from sdlms.storage.row_layout import (
    CHECKSUMS,
    Places,
    RowGroup,
    RowLayout,
    create_rows,
    read_places,
    stored_columns,
)

PIECE_TOKENS = 64  # are written at a time; a reader waits for no more than that


class CheckedRows(NamedTuple):
    """Rows as they were read.

    Attributes:
        arrays: by column, `[position, ...]`, zero where a row is not present.
        present: `[position]` bool, written and still as it was written.
        is_damaged: some row was written and is not as it was written.
    """

    arrays: dict[str, Array]
    present: NDArray[np.bool_]
    is_damaged: bool


class TokenRows:
    """One open file; threads may read while one thread writes."""

    def __init__(self, path: Path, owner: str) -> None:
        """Find where everything lies.

        Raises:
            DamagedFileError: the file is damaged, of another version or of another owner.
            OSError: the system does not open it.
        """
        self.path, self.owner = path, owner
        self._lock = threading.Lock()  # held while bytes are read, written or the file replaced
        self._take(read_places(path, owner), os.open(path, os.O_RDONLY))

    def _take(self, places: Places, descriptor: int) -> None:
        """Read and write this file from now on."""
        self._places, self._descriptor = places, descriptor
        self._writer: FlatWriter | None = None
        self.layout = places.layout
        self._groups = {group.name: group for group in self.layout}

    def close(self) -> None:
        """Give the file back; once is enough."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
        self._descriptor, self._writer = -1, None

    def write(self, group: str, first: int, arrays: Mapping[str, Array]) -> None:
        """Write the rows of some tokens, over those that were there.

        Args:
            group: one of the layout.
            first: position of the first token.
            arrays: every column of the group, `[token, ...]`.

        Raises:
            ValueError: a column is missing, or has another shape or dtype.
            UserError, OSError: it cannot be written, as on a full disk.
        """
        spec = self._groups[group]
        n_tokens = len(arrays[spec.columns[0].name])
        self._make_room(first + n_tokens)
        for start in range(0, n_tokens, PIECE_TOKENS):
            piece = {c.name: arrays[c.name][start : start + PIECE_TOKENS] for c in spec.columns}
            self._write_piece(spec, first + start, piece)

    def _write_piece(self, spec: RowGroup, first: int, arrays: Mapping[str, Array]) -> None:
        """Write a few rows, then their checksums."""
        positions = range(first, first + len(arrays[spec.columns[0].name]))
        sums = _checksums(spec, positions, range(spec.n_parts), arrays)
        with self._lock:
            writer = self._writing()
            for column in spec.columns:
                writer.write(f"/{spec.name}/{column.name}", first, arrays[column.name])
            writer.write(f"/{spec.name}/{CHECKSUMS}", first, sums)

    def _writing(self) -> FlatWriter:
        """The open writer."""
        if self._writer is None:
            self._writer = FlatWriter(self.path)
        return self._writer

    def truncate(self, n_tokens: int, groups: Sequence[str]) -> None:
        """Forget the rows from a position on, for good: what is written later may be others.

        Raises:
            UserError, OSError: it cannot be written.
        """
        for name in groups:
            if not self._sums(name, range(n_tokens, self._places.room)).any():
                continue  # a full disk is still read
            self._make_room(0)
            n_gone = self._places.room - n_tokens
            nothing = np.zeros((n_gone, self._groups[name].n_parts), np.uint32)
            with self._lock:
                writer = self._writing()
                writer.write(f"/{name}/{CHECKSUMS}", n_tokens, nothing)
            writer.sync()

    def read(
        self, group: str, positions: Sequence[int], parts: Sequence[int] | None = None
    ) -> CheckedRows:
        """Read and check the rows of some tokens.

        Args:
            group: one of the layout.
            positions: of the tokens, in any order.
            parts: which entries of every column's first axis, all where None. Where a group has
                a checksum for each, only these are read.

        Raises:
            OSError: the system does not read it.
        """
        spec = self._groups[group]
        alone = parts if spec.n_parts > 1 else None
        chosen = range(spec.n_parts) if alone is None else alone
        arrays: dict[str, Array] = {}
        with self._lock:
            for column in spec.columns:
                shape = (len(chosen), *column.shape[1:]) if spec.n_parts > 1 else column.shape
                arrays[column.name] = np.zeros((len(positions), *shape), column.dtype)
                self._fill(arrays[column.name], (group, column.name), positions, alone)
            written = self._sums(group, positions)[:, list(chosen)]
        intact = written == _checksums(spec, positions, chosen, arrays)
        present = (intact & (written != 0)).all(axis=1)
        for array in arrays.values():
            array[~present] = 0
        if parts is not None and alone is None:
            arrays = {name: array[:, list(parts)] for name, array in arrays.items()}
        return CheckedRows(arrays, present, bool((~intact & (written != 0)).any()))

    def marks(self, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row, `[n_tokens]`; the rows are not checked."""
        with self._lock:
            written: NDArray[np.bool_] = (self._sums(group, range(n_tokens)) != 0).all(axis=1)
        return written

    def _sums(self, group: str, positions: Sequence[int]) -> NDArray[np.uint32]:
        """The checksums `[position, part]` as they are stored."""
        sums = np.zeros((len(positions), self._groups[group].n_parts), np.uint32)
        self._fill(sums, (group, CHECKSUMS), positions, None)
        return sums

    def _fill(
        self,
        rows: Array,
        name: tuple[str, str],
        positions: Sequence[int],
        parts: Sequence[int] | None,
    ) -> None:
        """Read rows, or parts of rows, into an array; what lies beyond the room stays as it is."""
        place = self._places.of[name]
        for start, end in _runs(positions):
            first = positions[start]
            end = min(end, start + self._places.room - first)
            if end <= start:
                continue
            offset = place.offset + first * place.row_bytes
            if parts is None:
                os.preadv(self._descriptor, [_bytes_of(rows[start:end])], offset)
                continue
            part_bytes = place.row_bytes // self._groups[name[0]].n_parts
            for i in range(start, end):
                for a, b in _runs(parts):
                    at = offset + (i - start) * place.row_bytes + parts[a] * part_bytes
                    os.preadv(self._descriptor, [_bytes_of(rows[i, a:b])], at)

    def _make_room(self, n_tokens: int) -> None:
        """Move to a larger file where these do not fit, to another where this is read-only."""
        if n_tokens > self._places.room or not os.access(self.path, os.W_OK):
            self.rebuild(self.layout, n_tokens)

    def rebuild(self, layout: RowLayout, n_tokens: int) -> None:
        """Move to a new file, with the rows of those groups that are alike in both.

        Readers go on with the old file until the new one has its name.

        Raises:
            UserError, OSError: it cannot be written; the old file stays.
        """
        grown = self.path.with_name(f".{self.path.name}.growing")
        try:
            create_rows(grown, self.owner, layout, max(n_tokens, self._places.room))
            with FlatWriter(grown) as writer:
                for group in set(layout) & set(self.layout):
                    self._copy(group, writer)
                writer.sync()
            places, descriptor = read_places(grown, self.owner), os.open(grown, os.O_RDONLY)
            with self._lock:
                try:
                    grown.replace(self.path)
                except OSError:
                    os.close(descriptor)
                    raise
                self.close()
                self._take(places, descriptor)
        finally:
            grown.unlink(missing_ok=True)
        sync(self.path.parent)

    def _copy(self, group: RowGroup, writer: FlatWriter) -> None:
        """Copy the rows that are there, damaged ones as they are."""
        used = np.flatnonzero(self._sums(group.name, range(self._places.room)).any(axis=1))
        n_used = int(used[-1]) + 1 if len(used) else 0
        for start in range(0, n_used, PIECE_TOKENS):
            positions = range(start, min(start + PIECE_TOKENS, n_used))
            for column in stored_columns(group):
                rows = np.zeros((len(positions), *column.shape), column.dtype)
                self._fill(rows, (group.name, column.name), positions, None)
                writer.write(f"/{group.name}/{column.name}", start, rows)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a sequence where it does not go on by one: `(start, end)` of each run of indices."""
    cuts = [i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1]
    yield from pairwise([0, *cuts, len(numbers)]) if numbers else ()


def _bytes_of(array: Array) -> memoryview:
    """The bytes of a contiguous array, to be written into."""
    return array.reshape(-1).view(np.uint8).data


def _checksums(
    spec: RowGroup,
    positions: Sequence[int],
    parts: Sequence[int],
    arrays: Mapping[str, Array],
) -> NDArray[np.uint32]:
    """crc32 of each `[position, part]` over all columns; never 0, which stands for no row.

    Position and part go into it, so that a row in a wrong place is seen.
    """
    sums = np.empty((len(positions), len(parts)), np.uint32)
    if not sums.size:
        return sums
    pieces = [
        np.ascontiguousarray(arrays[column.name]).reshape(len(positions), len(parts), -1)
        for column in spec.columns
    ]
    raw = [piece.view(np.uint8) for piece in pieces]
    for i, position in enumerate(positions):
        for j, part in enumerate(parts):
            checksum = zlib.crc32(struct.pack("<qq", position, part))
            for content in raw:
                checksum = zlib.crc32(content[i, j], checksum)
            sums[i, j] = checksum or 1
    return sums
