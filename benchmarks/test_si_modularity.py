"""What `sdlms si-modularity` takes by default, phase by phase, and how that grows with tokens.

Runs go through the real command line, one child process each, over captures of the same shape
with some and with twice as many tokens. For scale, the original way: in one process, in memory,
without a null or an interval.
"""

import csv
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import networkx as nx
import numpy as np

from benchmarks.planted_capture import ACTIVATIONS, SITE, Shape, capture_planted
from benchmarks.timing import Report, Rounds, alternate
from benchmarks.workload import Size, run_command
from sdlms.runs.reading import Run
from sdlms.storage.activations import dataset_name

SHAPES = {
    "full": Shape(2048, 100_500, (2, 3, 5)),
    "smoke": Shape(96, 4_900, (1, 2)),
}
NULLS = {"full": "20", "smoke": "2"}
PHASES = ("specialization", "thresholds", "graphs", "tables")
ORIGINAL, ORIGINAL_ENTRIES = "the original way", 200
BLOCK = 4096  # tokens that are read at a time


def test_whole_stage(size: Size, tmp_path: Path, publish: Callable[[Report], None]) -> None:
    """Time and peak memory at n and at 2n tokens; counts are exact, and a rerun has the bytes."""
    shape = SHAPES[size.name]
    few, many = (
        capture_planted(tmp_path, shape.of(n)) for n in (shape.n_tokens // 2, shape.n_tokens)
    )
    found: dict[str, list[Run]] = {}

    def measure(capture: Run) -> Mapping[str, float]:
        name, cpu = _named(capture), _child_cpu_seconds()
        flags = ["--acts", capture.name, "--nulls", NULLS[size.name]]
        run = Run(run_command("si-modularity", tmp_path, *flags))
        found.setdefault(name, []).append(run)
        phases = run.all_of("done")[0]["phase_seconds"]
        return {part: phases[part] for part in PHASES} | {"CPU": _child_cpu_seconds() - cpu}

    sides = {_named(capture): lambda capture=capture: measure(capture) for capture in (few, many)}
    by_plan = {f"{ORIGINAL}, {_named(many)}": lambda: original(many, shape.layers)}
    rounds = alternate({**sides, **by_plan}, size.slow_rounds)
    title = f"si-modularity, {shape.n_units} units, {len(shape.layers)} layers"
    publish(_times(title, rounds, list(sides), found))
    publish(_memory(title, found))
    for capture in (few, many):
        check(capture, found[_named(capture)])


def _times(title: str, rounds: Rounds, sides: list[str], found: dict[str, list[Run]]) -> Report:
    """Seconds of the whole and of its phases, and how they grow."""
    report, (few, many) = Report(title), sides
    report.add_rounds(rounds)
    report.add_ratio("twice the tokens: seconds", rounds.wall[many], rounds.wall[few], "<= 2")
    for part in rounds.parts[few]:
        pair = rounds.parts[many][part], rounds.parts[few][part]
        report.add_ratio(f"twice the tokens: {part}", *pair)
    report.facts = {
        "nulls": found[few][0].start["config"]["nulls"],
        "louvain": found[few][0].start["decided"]["louvain"],
        "edges of each layer": {name: _n_edges(runs[0]) for name, runs in found.items()},
    }
    return report


def _memory(title: str, found: dict[str, list[Run]]) -> Report:
    """Peak resident memory of the child processes."""
    report = Report(f"memory of {title}", unit="MB")
    for name, runs in found.items():
        peaks = [run.all_of("done")[0]["peak_memory_bytes"] / 1e6 for run in runs]
        report.figures[name] = peaks
    few, many = report.figures.values()
    report.add_ratio("twice the tokens", many, few)
    return report


def _named(capture: Run) -> str:
    """A side's name."""
    with h5py.File(capture.path / ACTIVATIONS) as file:
        return f"{len(file['/tokens/ids']):,} tokens"


def _child_cpu_seconds() -> float:
    """User and system seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _n_edges(run: Run) -> list[int]:
    """Edges of each layer's graph of all tasks."""
    rows = _table(run, "si_modularity.csv")
    return [int(row["n_edges"]) for row in rows if row["task"] == "all"]


def _table(run: Run, name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (run.path / name).open(newline="") as file:
        return list(csv.DictReader(file))


def check(capture: Run, runs: list[Run]) -> None:
    """Every firing was counted, and every run has the same bytes."""
    rows = _table(runs[0], "units.csv")
    with h5py.File(capture.path / ACTIVATIONS) as file:
        for layer in sorted({int(row["layer"]) for row in rows}):
            own = [row for row in rows if int(row["layer"]) == layer]
            limits = np.array([float(row["threshold"]) for row in own], dtype=np.float32)
            data = file[dataset_name((SITE, layer))]
            blocks = (data[first : first + BLOCK] for first in range(0, len(data), BLOCK))
            fired = sum((block.astype(np.float32) > limits).sum(axis=0) for block in blocks)
            assert [int(row["fired"]) for row in own] == fired.tolist()
    hashes = [{each["path"]: each["sha256"] for each in run.all_of("output")} for run in runs]
    assert all(each == hashes[0] for each in hashes)


def original(capture: Run, layers: tuple[int, ...]) -> None:
    """The first plan: entropy of counts, 200 entries of the sorted matrix of PMI, one Louvain."""
    with h5py.File(capture.path / ACTIVATIONS) as file, h5py.File(capture.path / "counts.h5") as k:
        tasks = np.repeat(file["/documents/task"][:], np.diff(file["/tokens/offsets"][:]))
        for layer in layers:
            name = dataset_name((SITE, layer))
            firing = (file[name][:].astype(np.float32) > k[f"{name}/thresholds"][:]).astype("f4")
            counts = np.stack([firing[tasks == task].sum(axis=0) for task in np.unique(tasks)])
            shares = np.clip(counts / counts.sum(axis=0), 1e-12, None)
            np.mean(1 + (shares * np.log(shares)).sum(axis=0) / np.log(len(counts)))
            joint, fired = firing.T @ firing, firing.sum(axis=0)
            with np.errstate(divide="ignore"):
                pmi = np.log(joint * len(firing) / np.outer(fired, fired))
            np.fill_diagonal(pmi, -np.inf)
            strongest = np.argsort(pmi, axis=None)[::-1][:ORIGINAL_ENTRIES]
            graph = nx.Graph()
            for i, j in zip(*np.unravel_index(strongest, pmi.shape), strict=True):
                graph.add_edge(int(i), int(j), weight=float(pmi[i, j]))
            found = nx.community.louvain_communities(graph, seed=0)
            nx.community.modularity(graph, found)
