"""Small published dynamic-k runs with chosen values; no model is behind them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdlms.dynamic.tables import COLUMNS as DYNAMIC_K_COLUMNS
from sdlms.dynamic.tables import CRITICAL_COLUMNS
from sdlms.runs.reading import Run
from sdlms.storage.tables import Cell
from tests.scaling.small_runs import QUARTERS, TASKS, Settings, model_of, written

SETTINGS = {
    **{"seeds": 3, "max_tokens": 1000, "calibration_tokens": 4096, "force_sparse_at_one": False},
}
KERNEL = 1.5  # its gain, whatever the rule and the fraction


def gated(
    work: Path,
    name: str,
    *,
    rules: Sequence[str] = ("post-norm", "input"),
    keep: Sequence[float] = (0.3, 1.0),
    excess: float = 0.05,
    critical: float = 0.6,
    reason: str = "",
    tasks: Sequence[str] = TASKS,
    measure: str = "both",
    backend: str = "compiled",
    settings: Settings | None = None,
    decided: Settings | None = None,
    texts: str = "a text",
    model: Settings | None = None,
    resolved: Settings | None = None,
) -> Run:
    """A run whose perplexity is 8, and by `excess` times the share of neurons dropped above that.

    All rules are alike; with `critical` sparsity of the model, a tenth more of each layer alone,
    and `reason` beside that of the model.
    """
    record = {"tokenizer": {"tokenizer.json": "t0"}} | (model or model_of(name))
    phases = {"quality": ["quality"], "speed": ["decode"], "both": ["quality", "decode"]}[measure]
    rows = [
        row
        for rule in rules
        for k in keep
        for phase in phases
        for row in gating_rows(rule, k, phase, excess, tasks, backend)
    ]
    tables: dict[str, Any] = {"dynamic_k.csv": (DYNAMIC_K_COLUMNS, rows)}
    if measure != "speed":
        limits = [critical_rows(rule, record, critical, tasks, reason) for rule in rules]
        tables["critical.csv"] = (CRITICAL_COLUMNS, [row for rows in limits for row in rows])
    data = [
        {"task": task, "sources": {f"{task}.txt": f"{texts} {task}"}, "datasets": []}
        for task in tasks
    ]
    return written(
        work,
        "dynamic-k",
        {"keep": list(keep), "measure": measure} | SETTINGS | (settings or {}),
        {"model": record, "data": data, "window": 64, "stride": 32} | (resolved or {}),
        tables,
        decided={"device_name": "a CPU", "dtype": "float32", "threads": 2} | (decided or {}),
    )


def gating_rows(
    rule: str, k: float, phase: str, excess: float, tasks: Sequence[str], backend: str
) -> list[dict[str, Cell]]:
    """Of the mean and of one seed; quality by task too."""
    rows = []
    ratio = 1 + excess * (1 - k)
    for seed in ("0", "mean"):
        for task in ("all", *tasks) if phase == "quality" else ("all",):
            row: dict[str, Cell] = dict.fromkeys(DYNAMIC_K_COLUMNS)
            row |= {"rule": rule, "k": k, "task": task, "phase": phase, "seed": seed}
            row |= {"kept_fraction": k, "bytes_reduction": (1 - k) / 4}
            row |= {"bytes_reduction_mlp": (1 - k) / 2}
            row |= {"perplexity": 8 * ratio, "perplexity_ratio": ratio}
            row |= {"perplexity_low": 7.0, "perplexity_high": 9.5}
            row |= {"perplexity_ratio_low": ratio - 0.01, "perplexity_ratio_high": ratio + 0.02}
            row |= {"quality_delta": 8 * (ratio - 1)}
            if phase == "decode":
                gain = 2 / (1 + k)
                row |= {"backend": backend, "speedup": KERNEL * gain**0.5, "kernel_gain": KERNEL}
                row |= {"sparsity_gain": gain**0.5, "limit": gain**0.6, "limit_mlp": gain}
                row |= {"speedup_mlp": KERNEL * gain**0.9, "kernel_gain_mlp": KERNEL}
                row |= {"sparsity_gain_mlp": gain**0.9}
            rows.append(row if seed == "mean" else row | {"perplexity": 99.0, "speedup": 99.0})
    return rows


def critical_rows(
    rule: str, record: Settings, critical: float, tasks: Sequence[str], reason: str
) -> list[dict[str, Cell]]:
    """Of the model, of each task, and of each layer that is gated alone."""
    layers = QUARTERS[record["n_layers"]]
    places = [("model", None, "all"), *(("task", None, task) for task in tasks)]
    rows = []
    for seed in ("0", "mean"):
        for scope, layer, task in [*places, *(("layer", layer, "all") for layer in layers)]:
            value = critical + 0.1 * (scope == "layer")
            row: dict[str, Cell] = dict.fromkeys(CRITICAL_COLUMNS)
            row |= {"rule": rule, "scope": scope, "layer": layer, "task": task, "seed": seed}
            row |= {"critical_sparsity_low": value - 0.05, "critical_sparsity_high": value + 0.02}
            row["reason"] = reason if scope == "model" else "upper end not reached"
            rows.append(row | {"critical_sparsity": value if seed == "mean" else 0.99})
    return rows
