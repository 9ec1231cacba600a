"""Activations in `activations.h5`: only the rows and layers that are asked for are read."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import Description, Ranges
from sdlms.acts.sources import Cost, Reduce, Take, Wanted, blocks_of, largest_block
from sdlms.errors import UserError
from sdlms.runs.reading import Run, find_run
from sdlms.storage.activations import POOLED, Key, dataset_name, numpy_dtype
from sdlms.storage.flat import Array
from sdlms.storage.row_file import IDS, MASK, OpenRows, RowFile, find_rows

ACTIVATIONS = "activations.h5"
SPARSE_ACTIVATIONS = "sparse_acts.h5"
SPILL = "spill-"  # folders that begin so live as long as a loop over layers


class FileSource:
    """One site of a finished file.

    Attributes:
        description: what is in it.
        bytes_read: so far, over all scans.
    """

    all_layers_at_once = False

    def __init__(self, file: RowFile, site: str, digest: str | None = None) -> None:
        """Describe the site; `digest` is the file's sha256 where it is known."""
        header = file.header
        self.file, self.digest = file, digest
        self.bytes_read = 0
        layers = [layer for where, layer in header.units if where == site]
        self.description = Description(
            dims=header.dims,
            site=site,
            layers=header.pooled_layers if layers == [POOLED] else tuple(layers),
            n_units=header.units[site, layers[0]],
            dtype=getattr(torch, header.store_dtype[site]),
            lengths=np.diff(file.offsets),
            document_ids=file.document_ids,
            document_tasks=file.document_tasks,
            header=header,
        )

    @property
    def place(self) -> str:
        """The file's name and site."""
        return f"{self.file.path.name} {self.description.site}"

    def mask(self, ranges: Ranges) -> NDArray[np.bool_]:
        """`[row]`, which rows statistics read."""
        if not self.description.has_tokens:
            return np.ones(ranges.n_rows, dtype=np.bool_)
        return self._tokens(MASK, ranges, np.dtype(np.uint8)).astype(np.bool_)

    def ids(self, ranges: Ranges) -> NDArray[np.int32]:
        """`[row]` token ids."""
        return self._tokens(IDS, ranges, np.dtype(np.int32)).astype(np.int32)

    @contextmanager
    def _open(self) -> Iterator[OpenRows]:
        """The file, open; a loop over layers may have ended, and taken it along."""
        path = self.file.path
        if path.parent.name.startswith(SPILL) and not path.exists():
            raise UserError(
                "this layer is gone: what iter_layers gives of a model lives as long as its loop. "
                "Use it inside the loop, or call cache() first."
            )
        with self.file.open() as rows:
            yield rows

    def _tokens(self, name: str, ranges: Ranges, dtype: np.dtype[np.generic]) -> Array:
        """A data set `[token]` at some ranges."""
        values = np.empty(ranges.n_rows, dtype=dtype)
        with self._open() as rows:
            _fill(rows, name, ranges.starts(self.file.offsets), ranges.lengths, values)
            self.bytes_read += rows.bytes_read
        return values

    def scan(self, wanted: Wanted, reduce: Reduce, take: Take) -> None:
        """Read block by block; layer after layer, as they lie, unless they are wanted together."""
        ranges, blocks = wanted.ranges, blocks_of(wanted.ranges)
        steps = (
            [(layer, block) for block in blocks for layer in wanted.layers]
            if wanted.together
            else [(layer, block) for layer in wanted.layers for block in blocks]
        )
        starts = ranges.starts(self.file.offsets)
        buffer = self._buffer(ranges)
        with self._open() as rows:
            for step, (layer, block) in enumerate(steps):
                if step + 1 < len(steps):
                    self._expect(rows, *steps[step + 1], starts, ranges.lengths)
                lengths = ranges.lengths[block]
                stored = buffer[: lengths.sum()]
                _fill(rows, dataset_name(self._key(layer)), starts[block], lengths, stored)
                acts = torch.from_numpy(stored).view(self.description.dtype)
                take(layer, block, reduce(block, acts))
            self.bytes_read += rows.bytes_read

    def _expect(
        self,
        rows: OpenRows,
        layer: int,
        block: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Announce the next block, if it lies in one piece."""
        first, last = int(starts[block[0]]), int(starts[block[-1]] + lengths[block[-1]])
        if last - first == lengths[block].sum():
            rows.expect(dataset_name(self._key(layer)), first, last)

    def read_padded(self, ranges: Ranges, layer: int, padded: Tensor) -> None:
        """Read rows of a layer straight to their places, nothing in between.

        Args:
            ranges: the rows, those of one document each.
            layer: of the file's.
            padded: `[document, token, unit]` of the stored type, on the CPU; what lies behind a
                document's rows is left as it is.
        """
        values = padded.view(torch.uint16) if padded.dtype == torch.bfloat16 else padded
        starts = ranges.starts(self.file.offsets)
        pieces = [row[:n] for row, n in zip(values.numpy(), ranges.lengths, strict=True)]
        with self._open() as rows:
            for first, last in runs_of(starts, ranges.lengths):
                name = dataset_name(self._key(layer))
                rows.read_into(name, int(starts[first]), pieces[first:last])
            self.bytes_read += rows.bytes_read

    def expect(self, wanted: Wanted) -> None:
        """Let the system fetch every layer's rows."""
        starts = wanted.ranges.starts(self.file.offsets)
        everything = np.arange(len(wanted.ranges))
        with self._open() as rows:
            for layer in wanted.layers if len(everything) else ():
                self._expect(rows, layer, everything, starts, wanted.ranges.lengths)

    def _buffer(self, ranges: Ranges) -> Array:
        """Room for the largest block, `[row, unit]`."""
        dtype = numpy_dtype(self.file.header.store_dtype[self.description.site])
        return np.empty((largest_block(ranges), self.description.n_units), dtype=dtype)

    def _key(self, layer: int) -> Key:
        """The data set of a layer."""
        site = self.description.site
        return (site, POOLED) if (site, POOLED) in self.file.header.units else (site, layer)

    def cost(self, wanted: Wanted) -> Cost:
        """The rows of each layer, and their mask where it is needed."""
        row_bytes = self.description.n_units * self.description.dtype.itemsize
        n_rows, n_layers = wanted.ranges.n_rows, len(wanted.layers)
        n_masked = n_rows * (1 if wanted.together else n_layers) if wanted.masked else 0
        return Cost(
            bytes_read=n_layers * n_rows * row_bytes + n_masked + wanted.n_searched,
            buffer_bytes=self._buffer(wanted.ranges).nbytes,
            block_rows=largest_block(wanted.ranges),
        )

    def fingerprint(self) -> str:
        """Of the file's sha256 where a run recorded it, otherwise of its path, size and time."""
        known = self.digest or [str(self.file.path.resolve()), *self.file.state]
        return hashlib.sha256(json.dumps([known, self.description.site]).encode()).hexdigest()


def runs_of(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut ranges into runs `(first, last)` that adjoin on disk."""
    if len(starts) == 0:
        return []
    breaks = (np.flatnonzero(starts[1:] != (starts + lengths)[:-1]) + 1).tolist()
    return list(pairwise([0, *breaks, len(starts)]))


def _fill(
    rows: OpenRows,
    name: str,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    values: Array,
) -> None:
    """Read ranges one after another into `values`; what adjoins on disk is read in one piece."""
    filled = np.concatenate([[0], np.cumsum(lengths)])
    for first, last in runs_of(starts, lengths):
        piece = values[filled[first] : filled[last]]
        if len(piece):
            rows.read_into(name, int(starts[first]), [piece])


def _run(artifacts: Path, reference: str) -> Run:
    """The run that a user means; `latest` is the newest of those that hold activations."""
    return find_run(artifacts, reference, *(["capture"] if reference == "latest" else []))


def located(run_or_path: Run | Path | str, artifacts: Path) -> tuple[Path, str | None]:
    """The file with the activations of a run, or the file itself; its sha256 where it is known.

    Raises:
        UserError: there is no such run, or it holds no activations.
    """
    if not isinstance(run_or_path, Run | Path | str):
        raise UserError(f"a run, a path or a name is needed, got a {type(run_or_path).__name__}.")
    if not isinstance(run_or_path, Run) and Path(run_or_path).is_file():
        return Path(run_or_path), None
    run = run_or_path if isinstance(run_or_path, Run) else _run(artifacts, str(run_or_path))
    recorded = {record["path"]: record["sha256"] for record in run.all_of("output")}
    for name in (ACTIVATIONS, SPARSE_ACTIVATIONS):
        if name in recorded:
            return run.path / name, recorded[name]
    raise UserError(f"{run.name} holds no {ACTIVATIONS}. Capture without --no-save: sdlms capture")


def chosen_site(file: RowFile, site: str | None) -> str:
    """The site that is meant; it may be left out where there is only one.

    Raises:
        UserError: there are several, or there is none of that name.
    """
    path, sites = file.path, file.header.sites
    if site is None and len(sites) > 1:
        raise UserError(
            f"{path} holds the sites {', '.join(sites)}; choose one: "
            f"site='{sites[0]}', or --site {sites[0]}."
        )
    if site is not None and site not in sites:
        raise UserError(f"{path} holds no site '{site}', but {', '.join(sites)}.")
    return site or sites[0]


def file_source(run_or_path: Run | Path | str, artifacts: Path, site: str | None) -> FileSource:
    """The activations of a run, or of a file, in `activations.h5`.

    Args:
        run_or_path: a run, its path or name, `latest`, or a file that `Acts.save` wrote.
        artifacts: where runs are looked for by name.
        site: which one; may be left out where there is only one.

    Raises:
        UserError: there is no such run or file, or it has no activations, or several sites.
    """
    path, digest = located(run_or_path, artifacts)
    file = find_rows(path)
    return FileSource(file, chosen_site(file, site), digest)
