"""`sparse_acts.h5`, version 1: the latents of sparse autoencoders, one token after another.

```
/latents/layer_<n>/indptr           [token + 1]     int64: token t owns entries indptr[t] .. [t + 1]
/latents/layer_<n>/indices          [entry]         int32, the latent; ascending within a token
/latents/layer_<n>/values           [entry]         float32, never 0
/latents/layer_<n>/document_starts  [document + 1]  int64, indptr at /tokens/offsets
/tokens/*, /documents/*             as in activations.h5, the same rows: those of mask 0 too
```
File attributes: format, version, model, revision, control; site, of the activations that were
encoded; layers, widths (the same for all) and members, one per layer; sae, the run they are of.

Values are float32, as the autoencoders give them: beside its index a value in float16 would save a
quarter of the file, and could overflow. `document_starts` tells what some documents take without
a look at the rows.

How many entries there will be is known at the end only. So rows are appended to plain files, one
set per layer, and the file is assembled of these once all are there.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.storage.activations import VERSION, ActivationsReader, Header, row_datasets
from sdlms.storage.files import write_errors
from sdlms.storage.flat import Array, Attributes, Blank, FlatWriter, create_flat
from sdlms.storage.row_file import RowFile, find_rows
from sdlms.storage.rows import Rows

FORMAT = "sdlms sparse activations"
LATENTS = "sae_latents"  # the site, as Acts know it
INDPTR, INDICES, VALUES, STARTS = "indptr", "indices", "values", "document_starts"
DTYPES = {INDPTR: "int64", INDICES: "int32", VALUES: "float32", STARTS: "int64"}
COUNTS = np.dtype("int32")  # entries of a token, while they are appended
ENTRY_BYTES = 8  # index and value
MOST_LATENTS = 1 << 31  # that an index can name
COPIED_ENTRIES = 1 << 20  # at a time


@dataclass(frozen=True)
class SparseHeader:
    """What the latents are of.

    Attributes:
        model: its name; `revision` is the hub commit or empty.
        site: of the activations that were encoded.
        width: latents of each layer.
        members: `layer -> name`, which autoencoder.
        sae: the run or folder they lie in.
        control: as in `activations.h5`.
    """

    model: str
    revision: str
    site: str
    width: int
    members: dict[int, str]
    sae: str
    control: str = "none"

    @property
    def layers(self) -> list[int]:
        """The layers, in order."""
        return list(self.members)


class Entries(NamedTuple):
    """Some rows, one after another.

    Attributes:
        counts: `[row]`, entries of each.
        indices: `[entry]` int32, ascending within a row.
        values: `[entry]` float32.
    """

    counts: NDArray[np.int32]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]


def part_name(layer: int, part: str) -> str:
    """Where a part of a layer lies."""
    return f"/latents/layer_{layer}/{part}"


def predicted_bytes(n_tokens: int, n_entries: int) -> int:
    """What a layer takes on disk, with the plain files of which it is assembled."""
    row_bytes = np.dtype(DTYPES[INDPTR]).itemsize + COUNTS.itemsize
    return n_tokens * row_bytes + 2 * n_entries * ENTRY_BYTES


class SparseAppender:
    """Rows of one layer, appended to plain files.

    Attributes:
        n_rows: so far.
        n_entries: so far.
    """

    def __init__(self, folder: Path, layer: int, n_rows: int, n_entries: int) -> None:
        """Go on behind rows that are on the disk; what follows them is dropped.

        Args:
            folder: where the files lie.
            layer: the layer.
            n_rows: of the last checkpoint, 0 to begin anew.
            n_entries: of these rows.
        """
        self.n_rows, self.n_entries = n_rows, n_entries
        self._paths = _plain_files(folder, layer)
        self._files = [os.open(path, os.O_WRONLY | os.O_CREAT, 0o666) for path in self._paths]
        sizes = (n_rows * COUNTS.itemsize, n_entries * 4, n_entries * 4)
        for file, size in zip(self._files, sizes, strict=True):
            os.ftruncate(file, size)
            os.lseek(file, 0, os.SEEK_END)

    def append(self, entries: Entries) -> None:
        """Add rows.

        Raises:
            UserError: the disk is full.
        """
        for path, file, values in zip(self._paths, self._files, entries, strict=True):
            rest = np.ascontiguousarray(values).view(np.uint8).data
            with write_errors(path):
                while rest:
                    rest = rest[os.write(file, rest) :]
        self.n_rows += len(entries.counts)
        self.n_entries += len(entries.indices)

    def sync(self) -> None:
        """Make sure that all rows are on the disk.

        Raises:
            UserError: the disk is full.
        """
        for path, file in zip(self._paths, self._files, strict=True):
            with write_errors(path):
                os.fsync(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file)


def _plain_files(folder: Path, layer: int) -> list[Path]:
    """Counts, indices and values of a layer."""
    return [folder / f"layer_{layer}.{part}" for part in ("counts", INDICES, VALUES)]


def assemble(path: Path, header: SparseHeader, rows: Rows, folder: Path) -> None:
    """Write the file from what was appended for each layer; an unfinished one is replaced.

    Raises:
        UserError: the disk is full.
        ValueError: rows are missing.
    """
    plain = {layer: _plain_files(folder, layer) for layer in header.layers}
    datasets: dict[str, Array | Blank] = dict(row_datasets(rows))
    for layer, (counts, indices, _) in plain.items():
        if counts.stat().st_size != rows.n_tokens * COUNTS.itemsize:
            raise ValueError(f"{counts} does not hold {rows.n_tokens} rows")
        n_entries = indices.stat().st_size // 4
        shapes = {INDPTR: rows.n_tokens + 1, INDICES: n_entries, VALUES: n_entries}
        for part, size in {**shapes, STARTS: len(rows.offsets)}.items():
            datasets[part_name(layer, part)] = Blank((size,), np.dtype(DTYPES[part]))
    with write_errors(path):
        create_flat(path, datasets, _attributes(header))
    with FlatWriter(path) as writer:
        for layer, (counts, indices, values) in plain.items():
            indptr = np.zeros(rows.n_tokens + 1, dtype=np.int64)
            np.cumsum(np.fromfile(counts, dtype=COUNTS), out=indptr[1:])
            writer.write(part_name(layer, INDPTR), 0, indptr)
            writer.write(part_name(layer, STARTS), 0, indptr[rows.offsets])
            _copy(indices, writer, part_name(layer, INDICES), np.dtype(DTYPES[INDICES]))
            _copy(values, writer, part_name(layer, VALUES), np.dtype(DTYPES[VALUES]))
        writer.sync()


def _attributes(header: SparseHeader) -> Attributes:
    """Of the file."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": header.model,
        "revision": header.revision,
        "site": header.site,
        "layers": header.layers,
        "widths": [header.width] * len(header.layers),
        "members": list(header.members.values()),
        "sae": header.sae,
        "control": header.control,
    }


def _copy(source: Path, writer: FlatWriter, name: str, dtype: np.dtype[np.generic]) -> None:
    """Write a plain file into a data set, some entries at a time."""
    first = 0
    with source.open("rb") as file:
        while len(values := np.fromfile(file, dtype=dtype, count=COPIED_ENTRIES)):
            writer.write(name, first, values)
            first += len(values)


def is_sparse(path: Path) -> bool:
    """Whether a file says that it holds latents; False where it says nothing."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


def find_sparse_rows(path: Path) -> RowFile:
    """Read what a file says about itself, no row; `header` is what Acts know of latents.

    Raises:
        UserError: it cannot be read, or is of another format or version.
    """
    return find_rows(path, _Reader)


class _Reader(ActivationsReader):
    """Reads `sparse_acts.h5`."""

    format = FORMAT

    def header(self) -> Header:
        """The latents as activations that are stored in float32.

        Raises:
            ValueError: widths are missing, or no numbers of latents, or not all the same.
        """
        found = self.attributes
        layers = [int(layer) for layer in found["layers"]]
        widths = [int(width) for width in found["widths"]]
        if len(set(widths)) != 1 or not 0 < widths[0] <= MOST_LATENTS:
            raise ValueError(f"widths {widths}")
        return Header(
            model=str(found["model"]),
            revision=str(found["revision"]),
            units={(LATENTS, n): width for n, width in zip(layers, widths, strict=True)},
            store_dtype={LATENTS: "float32"},
            activation_function="",
            gated=False,
            control=str(found["control"]),
        )

    def data_names(self, header: Header) -> list[str]:
        """Every part of every layer."""
        return [part_name(layer, part) for layer in header.layers for part in DTYPES]
