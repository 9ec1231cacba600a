"""What benchmarks in processes of their own share: the files, running sides, comparing figures."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.acts_data import OURS, POOLED, Shape, labels_of, make_files, n_train
from benchmarks.workload import Size
from sdlms.acts import load_acts
from sdlms.numerics.metrics import auroc

needs_probelab = pytest.mark.skipif(find_spec("probelab") is None, reason="probelab is missing")
Results = dict[str, list[dict[str, Any]]]


def prepared(kept: str | None, made: Path, shape: Shape) -> Path:
    """Both files and the pooled one, in the folder `kept`, otherwise in `made`."""
    where = make_files(Path(kept) if kept else made, shape)
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
