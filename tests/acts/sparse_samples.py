"""Small latents in memory and in `sparse_acts.h5`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from sdlms.acts.sparse_source import SparseSource
from sdlms.storage.sparse_acts import (
    LATENTS,
    Entries,
    SparseAppender,
    SparseHeader,
    assemble,
    find_sparse_rows,
)
from tests.acts.samples import LAYERS, Sample, sample


def sparse_sample(
    lengths: Sequence[int], seed: int = 0, layers: Sequence[int] = LAYERS, n_units: int = 3
) -> Sample:
    """Random latents, about two of three of them 0; the last layer has none that is active."""
    data = sample(lengths, seed, layers, n_units)
    generator = torch.Generator().manual_seed(seed)
    acts = {
        n: a.relu() * (torch.rand(a.shape, generator=generator) > 0.3) for n, a in data.acts.items()
    }
    acts[layers[-1]] = torch.zeros_like(acts[layers[-1]])
    return replace(data, acts=acts)


def entries_of(acts: Tensor) -> Entries:
    """The entries of dense rows, in a plain loop."""
    found = [[(i, v) for i, v in enumerate(row) if v] for row in acts.tolist()]
    return Entries(
        np.array([len(row) for row in found], dtype=np.int32),
        np.array([i for row in found for i, _ in row], dtype=np.int32),
        np.array([v for row in found for _, v in row], dtype=np.float32),
    )


def header_of(data: Sample) -> SparseHeader:
    """Of a model that does not exist."""
    return SparseHeader(
        model="tiny",
        revision="abc",
        site="resid_post",
        width=next(iter(data.acts.values())).shape[1],
        members={layer: f"l1_{layer}" for layer in data.acts},
        sae="20261120_143022_sae-train",
        control="reinit",
    )


def write_sparse(path: Path, data: Sample) -> Path:
    """As the sae-latents stage lays it out."""
    with TemporaryDirectory() as folder:
        for layer, acts in data.acts.items():
            with SparseAppender(Path(folder), layer, 0, 0) as appender:
                appender.append(entries_of(acts))
        assemble(path, header_of(data), data.rows, Path(folder))
    return path


def sparse_of(path: Path, data: Sample) -> SparseSource:
    """The same as a source."""
    return SparseSource(find_sparse_rows(write_sparse(path, data)), LATENTS)
