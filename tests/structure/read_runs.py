"""Runs whose firings are counted, and a plain account of which there are."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sdlms.acts import load_acts
from sdlms.runs.reading import Run, list_runs
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.structure.subject import Subject
from tests.acts.samples import Sample
from tests.acts.sparse_samples import write_sparse
from tests.stages.probe_runs import N_LAYERS

QUICK = ["--max-tokens", "600", "--dtype", "float32", "--threads", "1", "--quiet"]


def captured(artifacts: Path, *arguments: object) -> Run:
    """What `sdlms capture` writes of a few tokens."""
    from sdlms.cli import main

    words = ["capture", "--artifacts", artifacts, "--model", "sdlms-small", *QUICK, *arguments]
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert not stopped.value.code
    return list_runs(artifacts)[-1]


def with_tasks(data: Sample, tasks: Sequence[str]) -> Sample:
    """Another task for each document, in turn."""
    named = [tasks[i % len(tasks)] for i in range(data.rows.n_documents)]
    return Sample(data.acts, replace(data.rows, document_tasks=named))


def published_latents(artifacts: Path, data: Sample) -> Run:
    """A complete sae-latents run that holds these latents, those of a re-initialised model."""
    options = RunOptions(artifacts=artifacts)
    with RunWriter("sae-latents", {"seed": 0}, options) as out:
        out.start({"model": {"name": "tiny", "n_layers": N_LAYERS}, "site": "resid_post"}, {})
        write_sparse(out.path / "sparse_acts.h5", data)
        out.output("sparse_acts.h5")
    return Run(out.path)


def tokens_of(subject: Subject, layer: int) -> list[NDArray[np.float32]]:
    """`[token, unit]` of each document of the run that has a token of mask 1."""
    acts = load_acts(subject.run, subject.site).select_layers(layer).realize()
    assert acts.mask is not None
    pieces = [row[mask].float().numpy() for row, mask in zip(acts.tensor, acts.mask, strict=True)]
    return [piece for piece in pieces if len(piece)]


def brute_counts(subject: Subject, layer: int, thresholds: NDArray[np.generic]) -> list[list[int]]:
    """Firings in each document, one unit after another."""
    return [
        [sum(value > limit for value in own) for own, limit in zip(rows.T, thresholds, strict=True)]
        for rows in tokens_of(subject, layer)
    ]


def damage(path: Path, keep: int = 100) -> None:
    """Cut a file of a finished run short."""
    with suppress(OSError):
        path.parent.chmod(0o755)
        path.chmod(0o644)
    os.truncate(path, keep)


def as_tensors(columns: dict[int, NDArray[np.generic]]) -> dict[int, torch.Tensor]:
    """Layers in the type in which they are stored."""
    return {n: torch.from_numpy(values.astype(np.float32)) for n, values in columns.items()}
