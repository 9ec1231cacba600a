"""Acts against probelab 0.1, and against the bare disk: layer sweep, one layer, sequential scan.

Sides run in processes of their own, alternating, each with nothing of its files in the page cache,
so that time, peak memory and bytes read are its own. They must find the same.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.acts_data import OURS, Shape
from benchmarks.sides import column, largest_gap, needs_probelab, reference_auroc, run_sides
from benchmarks.timing import Report
from benchmarks.workload import Size
from sdlms.acts import Acts, load_acts


@needs_probelab
def test_layer_sweep(
    size: Size, shape: Shape, acts_folder: Path, publish: Callable[[Report], None]
) -> None:
    """Pool every layer, fit, score: time, peak memory, bytes read."""
    sides = ["ours: sweep", "ours: sweep on pooled", "probelab: sweep"]
    results = run_sides(sides, acts_folder, size, size.slow_rounds)
    report = Report("layer sweep")
    for side in sides:
        report.figures[side] = column(results, side, "seconds")
        report.figures[f"{side}, peak GB"] = [v / 1e9 for v in column(results, side, "peak_bytes")]
        report.figures[f"{side}, read GB"] = [v / 1e9 for v in column(results, side, "bytes_read")]
    ours, cached, theirs = (report.figures[side] for side in sides)
    report.add_ratio("time, probelab / first sweep", theirs, ours, ">= 4")
    report.add_ratio("time, probelab / sweep on pooled", theirs, cached, ">= 20")
    report.add_ratio(
        "peak memory, probelab / first sweep",
        column(results, sides[2], "peak_bytes"),
        column(results, sides[0], "peak_bytes"),
        ">= 30",
    )
    exact = reference_auroc(acts_folder, shape)
    gaps = {side: largest_gap(results[side][0]["auroc"], exact) for side in sides}
    report.facts["largest gap of AUROC to Newton's"] = gaps
    publish(report)
    assert gaps[sides[0]] <= 2e-4
    assert gaps[sides[1]] <= 2e-4
    assert gaps[sides[2]] <= 5e-3  # it pools in bfloat16


def bytes_of(acts: Acts) -> int:
    """Of the activations alone."""
    return int(acts.lengths.sum()) * acts.n_units * acts.dtype.itemsize


@needs_probelab
def test_one_layer(
    size: Size, shape: Shape, acts_folder: Path, publish: Callable[[Report], None]
) -> None:
    """Every token of one layer."""
    sides = ["ours: one layer", "probelab: one layer"]
    results = run_sides(sides, acts_folder, size, size.slow_rounds)
    report = Report("one layer")
    for side in sides:
        report.figures[side] = column(results, side, "seconds")
        report.figures[f"{side}, read GB"] = [v / 1e9 for v in column(results, side, "bytes_read")]
    for name, target in (("seconds", ">= 50"), ("bytes_read", "16")):
        above, below = column(results, sides[1], name), column(results, sides[0], name)
        report.add_ratio(f"{name}, probelab / ours", above, below, target)
    publish(report)
    read = {side: results[side][0]["bytes_read"] for side in sides}
    one_layer = load_acts(acts_folder / OURS).select_layers(shape.layers // 2)
    assert read[sides[0]] == pytest.approx(bytes_of(one_layer), rel=0.02, abs=100_000)
    assert results[sides[0]][0]["sample"] == pytest.approx(results[sides[1]][0]["sample"])


def test_sequential_scan(
    size: Size, shape: Shape, acts_folder: Path, publish: Callable[[Report], None]
) -> None:
    """Every value of every layer as it is stored, against reading the raw bytes."""
    sides = ["ours: scan", "raw: scan"]
    results = run_sides(sides, acts_folder, size, size.rounds)
    report = Report("sequential scan")
    for side in sides:
        report.figures[side] = column(results, side, "seconds")
    raw, ours = report.figures["raw: scan"], report.figures["ours: scan"]
    report.add_ratio("raw / ours (share of the disk's speed)", raw, ours, ">= 0.7")
    publish(report)
    n_values = int(load_acts(acts_folder / OURS).lengths.sum()) * shape.units * shape.layers
    assert results["ours: scan"][0]["values"] == n_values


def test_memory_does_not_grow_with_layers(
    size: Size, acts_folder: Path, publish: Callable[[Report], None]
) -> None:
    """The first sweep over a quarter of the layers, and over all of them."""
    sides = ["ours: sweep of a quarter", "ours: sweep"]
    results = run_sides(sides, acts_folder, size, size.slow_rounds)
    report = Report("memory of a layer sweep", unit="MB")
    for side in sides:
        report.figures[side] = [v / 1e6 for v in column(results, side, "peak_bytes")]
    few, all_of_them = (report.figures[side] for side in sides)
    report.add_ratio("all layers / a quarter", all_of_them, few, "1")
    publish(report)
    assert max(all_of_them) <= 1.5 * max(few)
