"""`counts.h5`, version 1: statistics per unit and document, from which `sparsity.csv` is made.

```
/documents/id, /task                   [document]
/documents/n_tokens                    [document]        int64, mask-1 tokens
/<site>/layer_<n>/counts               [document, unit]  uint32, tokens above the threshold
/<site>/layer_<n>/thresholds           [unit]            float32
/<site>/layer_<n>/n_positive           [document]        int64, (token, unit) pairs above 0
/<site>/layer_<n>/participation_ratio  [document]        float64, summed over mask-1 tokens
/threshold_sample/documents            [sampled]         int64, empty under a fixed threshold
```
"""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.storage.activations import Key, dataset_name, document_datasets
from sdlms.storage.flat import Array, Blank, create_flat
from sdlms.storage.rows import Rows

FORMAT = "sdlms counts"
VERSION = 1
BLOCK_DOCUMENTS = 1024
PER_DOCUMENT = {"counts": "uint32", "n_positive": "int64", "participation_ratio": "float64"}


def masked_lengths(rows: Rows) -> NDArray[np.int64]:
    """`[document]` mask-1 tokens of each document."""
    running = np.concatenate([[0], np.cumsum(rows.mask, dtype=np.int64)])
    return np.diff(running[rows.offsets])


def create_counts(path: Path, units: dict[Key, int], rows: Rows, sample: list[int]) -> None:
    """Allocate the file; statistics and thresholds are then written with a `FlatWriter`."""
    datasets: dict[str, Array | Blank] = {
        **document_datasets(rows),
        "/documents/n_tokens": masked_lengths(rows),
        "/threshold_sample/documents": np.array(sample, dtype=np.int64),
    }
    for key, width in units.items():
        for name, dtype in PER_DOCUMENT.items():
            shape = (rows.n_documents, width) if name == "counts" else (rows.n_documents,)
            datasets[f"{dataset_name(key)}/{name}"] = Blank(shape, np.dtype(dtype))
        datasets[f"{dataset_name(key)}/thresholds"] = Blank((width,), np.dtype("float32"))
    create_flat(path, datasets, {"format": FORMAT, "version": VERSION})


def read_counts(path: Path, name: str) -> NDArray[np.generic]:
    """One data set, whole."""
    with h5py.File(path, "r") as file:
        values: NDArray[np.generic] = file[name][:]
    return values


def shape_of(path: Path, name: str) -> tuple[int, ...]:
    """How large a data set is; nothing of it is read."""
    with h5py.File(path, "r") as file:
        shape: tuple[int, ...] = file[name].shape
    return shape


def task_counts(
    path: Path, key: Key, members: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Firing counts summed over each task's documents, never holding more than a block.

    Args:
        path: the file.
        key: site and layer.
        members: `[task, document]`, which documents belong to it.

    Returns:
        `[task, unit]` sums over documents and `[document]` sums over units.
    """
    with h5py.File(path, "r") as file:
        data = file[f"{dataset_name(key)}/counts"]
        totals = np.zeros((len(members), data.shape[1]), dtype=np.int64)
        fired = np.zeros(data.shape[0], dtype=np.int64)
        for first in range(0, data.shape[0], BLOCK_DOCUMENTS):
            block = data[first : first + BLOCK_DOCUMENTS]
            fired[first : first + BLOCK_DOCUMENTS] = block.sum(axis=1, dtype=np.int64)
            for index, member in enumerate(members[:, first : first + BLOCK_DOCUMENTS]):
                totals[index] += block[member].sum(axis=0, dtype=np.int64)
    return totals, fired
