"""A capture run whose neurons fire in bursts, in modules that fire together, and prefer tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import gelu

from benchmarks.workload import make_rows
from sdlms.acts.sparsity import COLUMNS, sparsity_rows
from sdlms.acts.statistics import SAMPLE_TOKENS, estimate_thresholds, measure_file, rule_of
from sdlms.acts.threads import one_thread
from sdlms.models.tokens import documents_within
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.activations import Header, Key, create_activations, dataset_name
from sdlms.storage.counts import create_counts, masked_lengths
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows
from sdlms.storage.tables import write_table
from sdlms.structure.captured import COUNTS, SPARSITY

ACTIVATIONS = "activations.h5"
SITE, D_VOCAB = "mlp_act", 50_304
LENGTHS = (100, 170)  # tokens of a document
N_TASKS, N_MODULES = 6, 16
# Of a neuron's input, whose variance is 1: what it has of its module's signal, where it has one.
OF_MODULE = 0.6
PERSISTENCE = 0.5  # correlation of inputs at neighbouring tokens of a document
OF_TASK, OF_DOCUMENT, BIAS = 0.2, 0.2, -0.8


@dataclass(frozen=True)
class Shape:
    """How large a capture is."""

    n_units: int
    n_tokens: int
    layers: tuple[int, ...]

    def of(self, n_tokens: int) -> "Shape":
        """The same with other tokens."""
        return Shape(self.n_units, n_tokens, self.layers)


def rows_of(shape: Shape) -> Rows:
    """Documents task by task, as many of each task, of about `n_tokens` tokens together."""
    n_each = round(shape.n_tokens / (N_TASKS * np.mean(LENGTHS)))
    lengths = np.random.default_rng(0).integers(LENGTHS[0], LENGTHS[1] + 1, n_each * N_TASKS)
    tasks = [f"task_{document // n_each}" for document in range(len(lengths))]
    return replace(make_rows(lengths, D_VOCAB), document_tasks=tasks)


def capture_planted(artifacts: Path, shape: Shape) -> Run:
    """A published run, counted and tabulated as the capture stage does it."""
    rows, keys = rows_of(shape), [(SITE, layer) for layer in shape.layers]
    options = RunOptions(artifacts=artifacts, label=str(shape.n_tokens))
    with RunWriter("capture", {"seed": 0}, options) as out:
        model = {"name": "planted", "n_layers": max(shape.layers) + 1}
        out.start({"model": model, "control": "none"}, {})
        path = out.path / ACTIVATIONS
        _write_activations(path, shape, rows, keys)
        out.output(ACTIVATIONS)
        _write_counts(path, shape, rows, keys)
        out.output(COUNTS)
        rules = {key: rule_of(SITE, "gelu", gated=False) for key in keys}
        tasks = list(dict.fromkeys(rows.document_tasks))
        write_table(out.path / SPARSITY, COLUMNS, sparsity_rows(out.path / COUNTS, rules, tasks))
        out.output(SPARSITY, columns=COLUMNS)
    return Run(out.path)


def _write_activations(path: Path, shape: Shape, rows: Rows, keys: Sequence[Key]) -> None:
    """One document after another."""
    header = Header(
        model="planted",
        revision="",
        units=dict.fromkeys(keys, shape.n_units),
        store_dtype={SITE: "float16"},
        activation_function="gelu",
        gated=False,
    )
    create_activations(path, header, rows)
    numbers = {name: n for n, name in enumerate(dict.fromkeys(rows.document_tasks))}
    with FlatWriter(path) as writer, one_thread():
        for key in keys:
            generator = np.random.default_rng(key[1])
            of_task = OF_TASK * generator.normal(size=(N_TASKS, shape.n_units))
            bounds = pairwise(rows.offsets.tolist())
            for task, (first, last) in zip(rows.document_tasks, bounds, strict=True):
                level = of_task[numbers[task]]
                acts = _document(generator, last - first, level)
                writer.write(dataset_name(key), first, acts)


def _document(
    generator: np.random.Generator, n_tokens: int, level: NDArray[np.float64]
) -> NDArray[np.float16]:
    """Neurons `[token, unit]`: every second one follows the signal of its module."""
    n_units = len(level)
    signals = _bursts(generator, n_tokens, N_MODULES)
    inputs = _bursts(generator, n_tokens, n_units)
    members = inputs[:, ::2]
    members *= np.sqrt(1 - OF_MODULE**2, dtype=np.float32)
    members += OF_MODULE * signals[:, np.arange(members.shape[1]) % N_MODULES]
    inputs += (BIAS + level + OF_DOCUMENT * generator.normal(size=n_units)).astype(np.float32)
    acts: NDArray[np.float16] = gelu(torch.from_numpy(inputs)).half().numpy()
    return acts


def _bursts(generator: np.random.Generator, n_tokens: int, n_columns: int) -> NDArray[np.float32]:
    """Normal `[token, column]` of variance 1, each token like the one before it."""
    values = generator.standard_normal((n_tokens, n_columns), dtype=np.float32)
    values[1:] *= np.sqrt(1 - PERSISTENCE**2, dtype=np.float32)
    for token in range(1, n_tokens):
        values[token] += PERSISTENCE * values[token - 1]
    return values


def _write_counts(path: Path, shape: Shape, rows: Rows, keys: Sequence[Key]) -> None:
    """As the capture stage counts, from the finished file."""
    lengths = masked_lengths(rows)
    sample = documents_within(lengths, SAMPLE_TOKENS, seed=0)
    rules = {key: rule_of(SITE, "gelu", gated=False) for key in keys}
    counts = path.with_name(COUNTS)
    create_counts(counts, dict.fromkeys(keys, shape.n_units), rows, sample)
    with FlatWriter(counts) as writer:
        estimate_thresholds(path, writer, rules, sample, threads=2)
        measure_file(path, writer, rows, rules, threads=2)
