"""Sparse latents in `sparse_acts.h5` as activations: dense rows are made a block at a time.

To Acts they are one more site, `sae_latents`: float32, 0 where a latent is not active. Only the
entries of the rows and layers that are asked for are read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import Ranges
from sdlms.acts.file_source import FileSource, chosen_site, file_source, located, runs_of
from sdlms.acts.sources import (
    BLOCK_TOKENS,
    Cost,
    Positions,
    Reduce,
    Take,
    Wanted,
    steps_of,
)
from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.storage.row_file import OpenRows, RowFile, falls
from sdlms.storage.rows import document_blocks
from sdlms.storage.sparse_acts import (
    DTYPES,
    ENTRY_BYTES,
    INDICES,
    INDPTR,
    STARTS,
    VALUES,
    Entries,
    find_sparse_rows,
    is_sparse,
    part_name,
)

BLOCK_BYTES = 32 << 20  # of dense rows that are there at a time, unless one document has more
POINTER_BYTES = 8
SCATTER_BYTES = 8  # per entry, beside itself: its row


class SparseSource(FileSource):
    """The latents of a finished file."""

    def __init__(self, file: RowFile, site: str, digest: str | None = None) -> None:
        """Describe them, and read where each document's entries begin."""
        super().__init__(file, site, digest)
        self._starts: dict[int, NDArray[np.int64]] = {}  # `[document + 1]`, by layer
        with self._open() as rows:
            for layer in self.description.layers:
                self._check_sizes(layer)
                self._starts[layer] = starts = np.empty(len(file.offsets), dtype=np.int64)
                rows.read_into(part_name(layer, STARTS), 0, [starts])
                n_entries = file.places[part_name(layer, INDICES)].n_rows
                if starts[0] != 0 or starts[-1] != n_entries or falls(starts):
                    raise self._damaged(layer, STARTS)

    def _check_sizes(self, layer: int) -> None:
        """Whether the parts of a layer are as long as they should be."""
        offsets = self.file.offsets
        n_entries = self.file.places[part_name(layer, INDICES)].n_rows
        sizes = {INDPTR: offsets[-1] + 1, STARTS: len(offsets), VALUES: n_entries}
        for part, n_rows in {**sizes, INDICES: n_entries}.items():
            place = self.file.places[part_name(layer, part)]
            if (place.n_rows, place.row_bytes) != (n_rows, np.dtype(DTYPES[part]).itemsize):
                raise self._damaged(layer, part)

    def _damaged(self, layer: int, part: str) -> UserError:
        """What there is to say of a file that contradicts itself."""
        return UserError(
            f"cannot read {self.file.path}: it is damaged ({part_name(layer, part)}). "
            "Make it anew: sdlms sae-latents"
        )

    def scan(self, wanted: Wanted, reduce: Reduce, take: Take) -> None:
        """As of any file; each block is filled with its entries."""
        blocks = self._blocks(wanted.ranges)
        steps = (
            [(layer, block) for block in blocks for layer in wanted.layers]
            if wanted.together
            else [(layer, block) for layer in wanted.layers for block in blocks]
        )
        n_rows = _largest(wanted.ranges.lengths, blocks)
        buffer = np.empty((n_rows, self.description.n_units), dtype=np.float32)
        with self._open() as rows:
            for layer, block in steps:
                ranges = wanted.ranges.at(block)
                found = self._read(rows, layer, ranges)
                dense = buffer[: ranges.n_rows]
                dense.fill(0)
                row = np.repeat(np.arange(ranges.n_rows), found.counts)
                dense[row, found.indices] = found.values
                take(layer, block, reduce(block, torch.from_numpy(dense)))
            self.bytes_read += rows.bytes_read

    def entries(self, layer: int, ranges: Ranges) -> Iterator[tuple[Positions, Entries]]:
        """What is active in some rows, block by block; no dense row is made.

        Args:
            layer: of the file's.
            ranges: the rows.

        Yields:
            Positions in `ranges`, and the entries of their rows one after another.
        """
        with self._open() as rows:
            for block in self._blocks(ranges):
                yield block, self._read(rows, layer, ranges.at(block))
            self.bytes_read += rows.bytes_read

    def read_padded(self, ranges: Ranges, layer: int, padded: Tensor) -> None:
        """Fill rows of a layer at their places, `[document, token, unit]`, block by block."""
        for block in self._blocks(ranges):
            some = ranges.at(block)
            with self._open() as rows:
                found = self._read(rows, layer, some)
                self.bytes_read += rows.bytes_read
            values = padded.numpy()
            for document, length in zip(block.tolist(), some.lengths.tolist(), strict=True):
                values[document, :length] = 0
            documents = np.repeat(np.repeat(block, some.lengths), found.counts)
            values[documents, np.repeat(steps_of(some), found.counts), found.indices] = found.values

    def _blocks(self, ranges: Ranges) -> list[Positions]:
        """Positions, in blocks whose dense rows take about `BLOCK_BYTES`."""
        n_rows = max(1, BLOCK_BYTES // (4 * self.description.n_units))
        bounds = document_blocks(ranges.offsets, min(BLOCK_TOKENS, n_rows))
        return [np.arange(first, last, dtype=np.int64) for first, last in bounds]

    def _read(self, rows: OpenRows, layer: int, ranges: Ranges) -> Entries:
        """The entries of some rows; what adjoins on disk is read in one piece."""
        starts = ranges.starts(self.file.offsets)
        pieces = [Entries(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))]
        for first, last in runs_of(starts, ranges.lengths):
            indptr = np.empty(int(ranges.lengths[first:last].sum()) + 1, dtype=np.int64)
            n_known = int(ranges.first[first] == 0)  # where a document begins, that is known
            if n_known:
                indptr[0] = self._starts[layer][ranges.documents[first]]
            pointers = int(starts[first]) + n_known
            rows.read_into(part_name(layer, INDPTR), pointers, [indptr[n_known:]])
            self._check_pointers(layer, ranges, slice(first, last), indptr)
            n_entries = int(indptr[-1] - indptr[0])
            indices, values = np.empty(n_entries, np.int32), np.empty(n_entries, np.float32)
            rows.read_into(part_name(layer, INDICES), int(indptr[0]), [indices])
            rows.read_into(part_name(layer, VALUES), int(indptr[0]), [values])
            if indices.view(np.uint32).max(initial=0) >= self.description.n_units:  # or negative
                raise self._damaged(layer, INDICES)
            pieces.append(Entries(np.diff(indptr).astype(np.int32), indices, values))
        return Entries(
            np.concatenate([piece.counts for piece in pieces]),
            np.concatenate([piece.indices for piece in pieces]),
            np.concatenate([piece.values for piece in pieces]),
        )

    def _check_pointers(
        self, layer: int, ranges: Ranges, piece: slice, indptr: NDArray[np.int64]
    ) -> None:
        """Whether pointers rise, and stay between those that begin and end each document.

        So no more is made room for than the file has.
        """
        documents, first = ranges.documents[piece], ranges.first[piece]
        lengths, starts = ranges.lengths[piece], self._starts[layer]
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        begins, ends = indptr[bounds[:-1]], indptr[bounds[1:]]
        before, behind = starts[documents], starts[documents + 1]
        to_the_end = first + lengths == self.description.lengths[documents]
        if (
            falls(indptr)
            or (begins < before).any()
            or (ends > behind).any()
            or (begins != before)[first == 0].any()
            or (ends != behind)[to_the_end].any()
            or np.diff(indptr).max(initial=0) > self.description.n_units
        ):
            raise self._damaged(layer, INDPTR)

    def expect(self, wanted: Wanted) -> None:
        """Let the system fetch the entries of documents that adjoin."""
        documents, lengths = wanted.ranges.documents, self.description.lengths
        for first, last in runs_of(self.file.offsets[documents], lengths[documents]):
            with self._open() as rows:
                for layer in wanted.layers:
                    begin, end = self._starts[layer][[documents[first], documents[last - 1] + 1]]
                    for part in (INDICES, VALUES):
                        rows.expect(part_name(layer, part), int(begin), int(end))

    def cost(self, wanted: Wanted) -> Cost:
        """The entries of each layer, and the mask where it is needed.

        Of whole documents it is known how many entries they have; of some of their rows it is
        estimated from the document's mean.
        """
        ranges, n_layers = wanted.ranges, len(wanted.layers)
        n_pointers = ranges.n_rows + int(((ranges.first > 0) & (ranges.lengths > 0)).sum())
        n_masked = ranges.n_rows * (1 if wanted.together else n_layers) if wanted.masked else 0
        entries = [self._n_entries(layer, ranges) for layer in wanted.layers]
        n_entries, blocks = sum(int(each.sum()) for each in entries), self._blocks(ranges)
        n_rows = _largest(ranges.lengths, blocks)
        most = max((_largest(each, blocks) for each in entries), default=0)
        return Cost(
            bytes_read=n_layers * n_pointers * POINTER_BYTES
            + n_entries * ENTRY_BYTES
            + n_masked
            + wanted.n_searched,
            buffer_bytes=n_rows * (4 * self.description.n_units + POINTER_BYTES)
            + most * (ENTRY_BYTES + SCATTER_BYTES),
            block_rows=n_rows,
        )

    def _n_entries(self, layer: int, ranges: Ranges) -> NDArray[np.int64]:
        """`[range]`, entries of each; of a part of a document its share, rounded up."""
        starts, documents = self._starts[layer], ranges.documents
        whole = starts[documents + 1] - starts[documents]
        lengths = np.maximum(self.description.lengths[documents], 1)
        return -(-whole * ranges.lengths // lengths)


def _largest(lengths: NDArray[np.int64], blocks: list[Positions]) -> int:
    """The most that a block has of something."""
    return max((int(lengths[block].sum()) for block in blocks), default=0)


def source_of(run_or_path: Run | Path | str, artifacts: Path, site: str | None) -> FileSource:
    """The activations of a capture or sae-latents run, or of a file of either format.

    Args:
        run_or_path: a run, its path or name, `latest` (the newest capture), or a file.
        artifacts: where runs are looked for by name.
        site: which one; may be left out where there is only one.

    Raises:
        UserError: there is no such run or file, or it has no activations, or several sites.
    """
    path, digest = located(run_or_path, artifacts)
    if not is_sparse(path):
        return file_source(run_or_path, artifacts, site)
    file = find_sparse_rows(path)
    return SparseSource(file, chosen_site(file, site), digest)
