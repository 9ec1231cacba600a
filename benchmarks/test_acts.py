"""Acts and probes against probelab 0.1: layer sweep, probe sweep, token level.

Sides run in processes of their own, alternating, each with nothing of its files in the page cache,
so that time, peak memory and bytes read are its own. They must find the same.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.acts_data import OURS, POOLED, SHAPES, Shape, labels_of, make_files, n_train
from benchmarks.timing import Report
from benchmarks.workload import Size
from sdlms.acts import load_acts
from sdlms.numerics.metrics import auroc

needs_probelab = pytest.mark.skipif(find_spec("probelab") is None, reason="probelab is missing")
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def shape(size: Size) -> Shape:
    """How much there is."""
    return SHAPES[size.name]


@pytest.fixture(scope="module")
def folder(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files; `SDLMS_BENCH_ACTS` names a folder in which they are kept (8.5 GB)."""
    kept = os.environ.get("SDLMS_BENCH_ACTS")
    where = make_files(Path(kept) if kept else tmp_path_factory.mktemp("acts"), shape)
    if not (where / POOLED).exists():
        load_acts(where / OURS).mean_pool().save(where / POOLED)
    return where


def run_sides(names: list[str], folder: Path, size: Size, rounds: int) -> Results:
    """Every side once per round, in turned order every second round."""
    results: Results = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            results[name].append(run_side(name, folder, size.name))
    return results


def run_side(name: str, folder: Path, shape: str) -> dict[str, Any]:
    """One side in its own process."""
    command = [sys.executable, "-m", "benchmarks.acts_sides", name, str(folder), shape]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def column(results: Results, side: str, name: str) -> list[float]:
    """One figure of a side, round by round."""
    return [float(result[name]) for result in results[side]]


def reference_auroc(folder: Path, shape: Shape) -> list[float]:
    """By Newton's method in float64, to convergence."""
    labels, first, found = labels_of(shape) == 1, n_train(shape), []
    for _, acts in load_acts(folder / POOLED).iter_layers():
        x = acts.tensor.double().numpy()
        x = (x - x[:first].mean(0)) / x[:first].std(0)
        model = LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=1000)
        scores = model.fit(x[:first], labels[:first]).decision_function(x[first:])
        found.append(auroc(scores, labels[first:]))
    return found


def largest_gap(one: list[float], other: list[float]) -> float:
    """Between two lists of figures."""
    gaps: NDArray[np.float64] = np.abs(np.array(one) - np.array(other))
    return float(gaps.max())


@needs_probelab
def test_layer_sweep(
    size: Size, shape: Shape, folder: Path, publish: Callable[[Report], None]
) -> None:
    """Pool every layer, fit, score: time, peak memory, bytes read."""
    sides = ["ours: sweep", "ours: sweep on pooled", "probelab: sweep"]
    results = run_sides(sides, folder, size, size.slow_rounds)
    report = Report("layer sweep")
    for side in sides:
        report.figures[side] = column(results, side, "seconds")
        report.figures[f"{side}, peak GB"] = [v / 1e9 for v in column(results, side, "peak_bytes")]
        report.figures[f"{side}, read GB"] = [v / 1e9 for v in column(results, side, "bytes_read")]
    theirs, ours, cached = (report.figures[side] for side in reversed(sides))
    ours, cached = cached, ours
    report.add_ratio("time, probelab / first sweep", theirs, ours, ">= 4")
    report.add_ratio("time, probelab / sweep on pooled", theirs, cached, ">= 20")
    report.add_ratio(
        "peak memory, probelab / first sweep",
        column(results, sides[2], "peak_bytes"),
        column(results, sides[0], "peak_bytes"),
        ">= 30",
    )
    exact = reference_auroc(folder, shape)
    gaps = {side: largest_gap(results[side][0]["auroc"], exact) for side in sides}
    report.facts["largest gap of AUROC to Newton's"] = gaps
    publish(report)
    assert gaps[sides[0]] <= 2e-4
    assert gaps[sides[1]] <= 2e-4
    assert gaps[sides[2]] <= 5e-3  # it pools in bfloat16


@needs_probelab
def test_one_layer(size: Size, folder: Path, publish: Callable[[Report], None]) -> None:
    """Every token of one layer."""
    sides = ["ours: one layer", "probelab: one layer"]
    results = run_sides(sides, folder, size, size.slow_rounds)
    report = Report("one layer")
    for side in sides:
        report.figures[side] = column(results, side, "seconds")
        report.figures[f"{side}, read GB"] = [v / 1e9 for v in column(results, side, "bytes_read")]
    for name, target in (("seconds", ">= 50"), ("bytes_read", "16")):
        above, below = column(results, sides[1], name), column(results, sides[0], name)
        report.add_ratio(f"{name}, probelab / ours", above, below, target)
    publish(report)
    assert results[sides[0]][0]["sample"] == pytest.approx(results[sides[1]][0]["sample"])


def test_sequential_scan(
    size: Size, shape: Shape, folder: Path, publish: Callable[[Report], None]
) -> None:
    """Every value of every layer as it is stored, against reading the raw bytes."""
    sides = ["ours: scan", "raw: scan"]
    results = run_sides(sides, folder, size, size.rounds)
    report = Report("sequential scan")
    for side in sides:
        report.figures[side] = column(results, side, "seconds")
    raw, ours = report.figures["raw: scan"], report.figures["ours: scan"]
    report.add_ratio("raw / ours (share of the disk's speed)", raw, ours, ">= 0.7")
    publish(report)
    n_values = int(load_acts(folder / OURS).lengths.sum()) * shape.units * shape.layers
    assert results["ours: scan"][0]["values"] == n_values


def test_memory_does_not_grow_with_layers(
    size: Size, folder: Path, publish: Callable[[Report], None]
) -> None:
    """The first sweep over a quarter of the layers, and over all of them."""
    sides = ["ours: sweep of a quarter", "ours: sweep"]
    results = run_sides(sides, folder, size, size.slow_rounds)
    report = Report("memory of a layer sweep", unit="MB")
    for side in sides:
        report.figures[side] = [v / 1e6 for v in column(results, side, "peak_bytes")]
    few, all_of_them = (report.figures[side] for side in sides)
    report.add_ratio("all layers / a quarter", all_of_them, few, "1")
    publish(report)
