"""Activations to sweep over, in two files: as sdlms stores them, and as probelab 0.1 does."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.storage.activations import Header, create_activations, dataset_name
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows

SITE = "resid_post"
OURS, PROBELAB, POOLED, FACTS = "activations.h5", "probelab.h5", "pooled.h5", "facts.json"
CHUNK_TOKENS = 4096  # probelab's own
BLOCK_TOKENS = 4 * CHUNK_TOKENS


@dataclass(frozen=True)
class Shape:
    """How much there is; the defaults are 4.25 GB.

    Attributes:
        layers: how many.
        documents: of 64 to 192 tokens.
        units: of each layer.
    """

    layers: int = 16
    documents: int = 2000
    units: int = 512


SHAPES = {"full": Shape(), "smoke": Shape(3, 60, 32)}


def lengths_of(shape: Shape) -> NDArray[np.int64]:
    """`[document]` tokens."""
    return np.random.default_rng(0).integers(64, 193, shape.documents)


def labels_of(shape: Shape) -> NDArray[np.int64]:
    """`[document]` 0 or 1, in random order."""
    return np.random.default_rng(1).integers(0, 2, shape.documents)


def n_train(shape: Shape) -> int:
    """The first four fifths are trained on."""
    return shape.documents * 4 // 5


def make_files(folder: Path, shape: Shape) -> Path:
    """Write both files, unless they are there; the same values in bfloat16."""
    facts = folder / FACTS
    if facts.exists() and json.loads(facts.read_text()) == asdict(shape):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    lengths = lengths_of(shape)
    rows = _rows(lengths)
    create_activations(folder / OURS, _header(shape), rows)
    with FlatWriter(folder / OURS) as writer, h5py.File(folder / PROBELAB, "w") as file:
        data = _probelab_file(file, shape, rows)
        for first in range(0, rows.n_tokens, BLOCK_TOKENS):
            bits = _block(shape, first, lengths).view(torch.uint16).numpy()
            data[first : first + len(bits)] = bits
            for layer in range(shape.layers):
                name = dataset_name((SITE, layer))
                writer.write(name, first, np.ascontiguousarray(bits[:, layer]))
        writer.sync()
    facts.write_text(json.dumps(asdict(shape)))
    return folder


def _block(shape: Shape, first: int, lengths: NDArray[np.int64]) -> torch.Tensor:
    """`[token, layer, unit]` bfloat16: noise of tokens and documents, and a little of the label."""
    document = np.repeat(np.arange(len(lengths)), lengths)[first : first + BLOCK_TOKENS]
    generator = torch.Generator().manual_seed(first)
    acts = torch.randn(len(document), shape.layers, shape.units, generator=generator)
    once = torch.Generator().manual_seed(1 << 40)
    direction = torch.randn(shape.layers, shape.units, generator=once) / shape.units**0.5
    labels = labels_of(shape)
    for number in np.unique(document):
        own = torch.Generator().manual_seed((1 << 41) + int(number))
        offset = 0.4 * torch.randn(shape.layers, shape.units, generator=own)
        acts[torch.from_numpy(document == number)] += offset + float(labels[number]) * direction
    return acts.bfloat16()


def _rows(lengths: NDArray[np.int64]) -> Rows:
    n_tokens = int(lengths.sum())
    return Rows(
        ids=np.zeros(n_tokens, dtype=np.int32),
        mask=np.ones(n_tokens, dtype=np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=[f"{i:016x}" for i in range(len(lengths))],
        document_tasks=["random"] * len(lengths),
    )


def _header(shape: Shape) -> Header:
    return Header(
        model="random",
        revision="",
        units={(SITE, layer): shape.units for layer in range(shape.layers)},
        store_dtype={SITE: "bfloat16"},
        activation_function="gelu",
        gated=False,
    )


def _probelab_file(file: h5py.File, shape: Shape, rows: Rows) -> h5py.Dataset:
    """The layout of `probelab.storage.save_hdf5`, which needs everything in memory to write it."""
    size = (rows.n_tokens, shape.layers, shape.units)
    chunks = (min(CHUNK_TOKENS, rows.n_tokens), *size[1:])
    data = file.create_dataset("data", size, dtype="uint16", chunks=chunks)
    file.attrs.update({"dims": "blsh", "dtype": "torch.bfloat16", "metadata": "{}"})
    file.attrs["probelab_version"] = "0.1.0"
    file.create_dataset("layers", data=list(range(shape.layers)))
    file.create_dataset("offsets", data=rows.offsets)
    file.create_dataset("detection_mask", data=rows.mask.astype(bool))
    return data


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
