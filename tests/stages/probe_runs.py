"""Small published capture runs whose activations are chosen, and what a probe run says of them."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.runs.reading import Run, list_runs
from sdlms.runs.writing import RunOptions, RunWriter
from tests.acts.samples import SITE, Sample, rows_with, write_sample

Cli = Callable[..., int]
LAYERS = (1, 3)
N_LAYERS = 4
SMALL = ["--threads", "1", "--quiet"]
FAST = ["--kinds", "logistic", *SMALL]


def noise(
    n_documents: int,
    classes: Sequence[str] = ("a", "b"),
    n_tokens: int = 4,
    n_units: int = 5,
    layers: Sequence[int] = LAYERS,
) -> Sample:
    """Random activations; the documents' tasks are the classes in turn, lengths differ by one."""
    lengths = [n_tokens + i % 2 for i in range(n_documents)]
    tasks = [classes[i % len(classes)] for i in range(n_documents)]
    rows = replace(rows_with(lengths), document_tasks=tasks)
    generator = np.random.default_rng(n_documents)
    shape = (rows.n_tokens, n_units)
    acts = {n: torch.from_numpy(generator.normal(size=shape).astype(np.float32)) for n in layers}
    return Sample(acts, rows)


def of_documents(data: Sample, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """One value per document, as one per token."""
    return np.repeat(values, data.rows.lengths)


def raised(data: Sample, layer: int, by: float) -> Sample:
    """With unit 0 of one layer raised in every document of the first task."""
    first = data.rows.document_tasks[0]
    chosen = np.array([task == first for task in data.rows.document_tasks])
    acts = dict(data.acts)
    acts[layer] = acts[layer].clone()
    acts[layer][of_documents(data, chosen), 0] += by
    return Sample(acts, data.rows)


def masked(data: Sample, mask: NDArray[np.generic]) -> Sample:
    """With another mask `[token]`."""
    return Sample(data.acts, replace(data.rows, mask=mask.astype(np.uint8)))


def published(work: Path, data: Sample, site: str = SITE) -> Run:
    """A complete capture run that holds these activations."""
    options = RunOptions(artifacts=work / "artifacts", label="planted")
    with RunWriter("capture", {"seed": 0}, options) as out:
        out.start({"model": {"name": "tiny", "n_layers": N_LAYERS}}, {})
        write_sample(out.path / "activations.h5", data, site)
        out.output("activations.h5")
    return Run(out.path)


def newest(work: Path) -> Path:
    """The newest run."""
    return list_runs(work / "artifacts")[-1].path


def table(run: Path, name: str = "probe.csv") -> list[dict[str, str]]:
    """The rows of a table."""
    with (run / name).open(newline="") as file:
        return list(csv.DictReader(file))


def predictions(run: Path) -> dict[tuple[str, str, str, str], list[dict[str, str]]]:
    """The rows of predictions.csv by layer, kind, seed and label."""
    found: dict[tuple[str, str, str, str], list[dict[str, str]]] = {}
    for row in table(run, "predictions.csv"):
        key = (row["layer"], row["kind"], row["seed"], row["label"])
        found.setdefault(key, []).append(row)
    return found


def outputs(run: Path) -> dict[str, str]:
    """The hash of every output."""
    return {record["path"]: record["sha256"] for record in Run(run).all_of("output")}


def write_labels(path: Path, rows: Sequence[Sequence[object]], header: str) -> Path:
    """A CSV table."""
    lines = [header, *(",".join(str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def document_labels(path: Path, data: Sample, labels: Sequence[str]) -> Path:
    """A label for each document of the sample, in order."""
    ids = data.rows.document_ids
    return write_labels(path, list(zip(ids, labels, strict=True)), "document_id,label")
