"""Published dynamic-k runs with tables that look like real ones; no model is behind them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdlms.dynamic.tables import COLUMNS, CRITICAL_COLUMNS
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import Cell, write_table

KEEP = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
# Ratios of perplexity at `KEEP`, and the share of MLP bytes that the family never saves.
COSTS: Mapping[str, tuple[tuple[float, ...], float]] = {
    "post-norm": ((1.337, 1.155, 1.082, 1.018, 1.001, 1.0), 0.5),
    "post-abs": ((1.37, 1.172, 1.086, 1.018, 1.0015, 1.0), 0.5),
    "threshold": ((1.387, 1.225, 1.11, 1.017, 0.9995, 1.0), 0.5),
    "top-p": ((1.35, 1.18, 1.09, 1.02, 1.002, 1.0), 0.5),
    "blocks": ((1.6, 1.3, 1.2, 1.06, 1.02, 1.0), 0.5),
    "pre-abs": ((1.848, 1.304, 1.113, 1.017, 1.002, 1.0), 0.5),
    "input": ((11.98, 1.874, 1.277, 1.04, 1.004, 1.0), 0.0),
    "sequence": ((5.1, 2.2, 1.5, 1.09, 1.02, 1.0), 0.0),
    "static": ((8.58, 3.05, 1.77, 1.145, 1.029, 1.0), 0.0),
    "random": ((19.6, 6.44, 2.96, 1.387, 1.094, 1.0), 0.5),
    "blocks-random": ((22.0, 7.5, 3.1, 1.4, 1.1, 1.0), 0.5),
}
NOT_REACHED = "random"  # whose critical sparsity no point of the grid reaches


def gated_run(
    artifacts: Path,
    model: str = "small",
    rules: Sequence[str] = tuple(COSTS),
    phases: Sequence[str] = ("quality", "decode"),
    kernel: float = 1.4,
    backend: str = "compiled",
    speedup_std: float | None = None,
    keep: Sequence[float] = KEEP,
) -> Run:
    """A run whose sparsity reaches nine tenths of its limit, in logarithms.

    The median speedup is not quite the product of the median gains.
    """
    rows = [
        _row(rule, k, phase, seed)
        | (_gains(rule, k, kernel, backend) if phase == "decode" else {})
        | {"speedup_std": speedup_std}
        for rule in rules
        for k in keep
        for phase in phases
        for seed in ("0", "mean")
    ]
    limits: list[dict[str, Cell]] = [
        {
            **dict.fromkeys(CRITICAL_COLUMNS),
            **{"rule": rule, "scope": scope, "task": "all", "seed": "mean", "layer": layer},
            "critical_sparsity": _critical(COSTS[rule][0]) if layer is None else 0.8,
            "reason": "x; not reached in 1 of 3 seeds"
            if rule == NOT_REACHED
            else "upper end not reached",
        }
        for rule in rules
        for scope, layer in (("model", None), ("layer", 1))
    ]
    tables = {"dynamic_k.csv": (COLUMNS, rows)}
    if "quality" in phases:
        tables["critical.csv"] = (CRITICAL_COLUMNS, limits)
    with RunWriter("dynamic-k", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"name": model}}, {"dtype": "float32", "threads": 2})
        for name, (columns, own) in tables.items():
            write_table(out.path / name, columns, own)
            out.output(name, columns=columns)
    return Run(out.path)


def _read(rule: str, k: float) -> float:
    """The share of MLP bytes that is read."""
    fixed = COSTS[rule][1]
    return fixed + (1 - fixed) * k


def _row(rule: str, k: float, phase: str, seed: str) -> dict[str, Cell]:
    """One cell of the grid; a row of one seed has values that no picture may show."""
    saved = 1 - _read(rule, k)
    row: dict[str, Cell] = dict.fromkeys(COLUMNS)
    row |= {"rule": rule, "k": k, "task": "all", "phase": phase, "seed": seed, "kept_fraction": k}
    row |= {"bytes_reduction_mlp": saved, "bytes_reduction": saved / 2}
    rise = COSTS[rule][0][KEEP.index(k)] - 1
    row |= {"perplexity_ratio": 1 + rise if seed == "mean" else 99.0}
    return row | {
        "perplexity_ratio_low": 1 + rise - abs(rise) / 5,
        "perplexity_ratio_high": 1 + rise + abs(rise) / 5,
    }


def _gains(rule: str, k: float, kernel: float, backend: str) -> dict[str, Cell]:
    """Speed, that of the MLP alone further from that of the dense one."""
    read = _read(rule, k)
    row: dict[str, Cell] = {"backend": backend}
    for side, limit, dense in (("", 2 / (1 + read), kernel), ("_mlp", 1 / read, kernel**1.6)):
        sparsity = limit**0.9
        row |= {f"limit{side}": limit, f"kernel_gain{side}": dense}
        row |= {f"sparsity_gain{side}": sparsity, f"speedup{side}": 0.99 * dense * sparsity}
    return row


def _critical(ratios: Sequence[float]) -> float:
    """The sparsity at which the ratio is 1.01, straight in its logarithm between points."""
    return 1 - float(np.interp(-np.log(1.01), -np.log(ratios), KEEP))
