"""Small published runs with chosen tables, laid out as their stages do; no model is behind them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlms.acts.sparsity import COLUMNS as SPARSITY_COLUMNS
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.ground import DOCUMENT_COLUMNS
from sdlms.sae.measuring import COLUMNS as SAE_COLUMNS
from sdlms.scaling.sources import Source, read_source
from sdlms.storage.counts import create_counts
from sdlms.storage.tables import Cell, write_table
from sdlms.structure.tables import COLUMNS as SI_COLUMNS
from tests.acts.samples import rows_with

TASKS = ("qa", "math")
SIZES = {"small": 1_000_000, "medium": 10_000_000, "large": 100_000_000, "huge": 10**9}
DEPTHS = {"small": 3, "medium": 4, "large": 6, "huge": 8}
QUARTERS = {3: [1, 2], 4: [1, 2, 3], 6: [2, 3, 5], 8: [2, 4, 6]}
Settings = dict[str, Any]
Changed = Callable[[dict[str, Cell]], dict[str, Cell]]


def model_of(size: str, **changed: Any) -> dict[str, Any]:
    """A model as `meta.jsonl` records it."""
    record = {"name": size, "revision": None, "n_layers": DEPTHS[size]}
    record |= {"n_parameters": SIZES[size], **changed}
    digest = f"{record['name']}@{record['revision']}"
    return {"weights": {"model.safetensors": digest}} | record


def written(
    work: Path,
    stage: str,
    config: Settings,
    resolved: Settings,
    tables: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Cell]]]],
    label: str | None = None,
    counts: Callable[[Path], None] | None = None,
    decided: Settings | None = None,
) -> Run:
    """A complete run."""
    options = RunOptions(artifacts=work / "artifacts", label=label)
    with RunWriter(stage, {"seed": 0, **config}, options) as out:
        out.start(resolved, decided or {})
        for name, (columns, rows) in tables.items():
            write_table(out.path / name, columns, rows)
            out.output(name, columns=columns)
        if counts is not None:
            counts(out.path / "counts.h5")
            out.output("counts.h5")
    return Run(out.path)


def captured(
    work: Path,
    name: str,
    *,
    value: Callable[[int], float] = lambda layer: 0.1 * (layer + 1),
    sites: Sequence[str] = ("mlp_act",),
    tasks: Sequence[str] = TASKS,
    n_documents: int = 6,
    rule: str = "quantile_0.9",
    control: str = "none",
    layers: Sequence[int] | None = None,
    words: Sequence[str] = ("25%", "50%", "75%"),
    skip_first: int = 0,
    model: Settings | None = None,
    label: str | None = None,
) -> Run:
    """A capture whose activation fraction is chosen, layer by layer."""
    record = model_of(name) if model is None else model
    chosen = QUARTERS[record["n_layers"]] if layers is None else layers
    rows = [
        {
            **dict.fromkeys(SPARSITY_COLUMNS, 0.5),
            **{"layer": layer, "site": site, "task": task, "threshold_rule": rule},
            **{"n_units": 8, "activation_fraction": value(layer), "activation_fraction_se": 0.01},
            **{"participation_ratio": 2.0, "participation_ratio_se": 0.4},
        }
        for layer in chosen
        for site in sites
        for task in tasks
    ]
    documents = replace(
        rows_with([2] * n_documents),
        document_tasks=[tasks[i % len(tasks)] for i in range(n_documents)],
    )
    return written(
        work,
        "capture",
        {"layers": list(words), "skip_first": skip_first},
        {"model": record, "data": [], "control": control},
        {"sparsity.csv": (SPARSITY_COLUMNS, rows)},
        label,
        counts=lambda path: create_counts(path, {}, documents, []),
    )


def trained(
    work: Path,
    name: str,
    fvu: float = 0.2,
    *,
    arch: str = "topk",
    n_documents: int = 6,
    site: str = "resid_post",
    model: Settings | None = None,
) -> Run:
    """An sae-train run with two members a layer, the second of which was selected."""
    record = model_of(name) if model is None else model
    rows: list[dict[str, Cell]] = []
    for layer in QUARTERS[record["n_layers"]]:
        for selected in (0, 1):
            row: dict[str, Cell] = {**dict.fromkeys(SAE_COLUMNS, 1.0), "site": site, "layer": layer}
            row |= {"member": f"k_{selected}", "selected": selected, "width": 64, "n_dead": 16}
            row |= {"fvu": fvu if selected else 9.0, "fvu_low": fvu / 2, "fvu_high": 2 * fvu}
            rows.append(row | {"ce_recovered": math.nan, "ce_recovered_low": math.nan})
    cells = dict.fromkeys(DOCUMENT_COLUMNS, 0)
    documents = [
        {**cells, "document_id": f"{i:016x}", "task": TASKS[i % 2]} for i in range(n_documents)
    ]
    return written(
        work,
        "sae-train",
        {"layers": None, "arch": arch, "select": "knee"},
        {"model": record, "acts": None, "control": "none", "site": site},
        {"sae.csv": (SAE_COLUMNS, rows), "documents.csv": (DOCUMENT_COLUMNS, documents)},
    )


def modular(
    work: Path,
    name: str,
    acts: Run | None = None,
    *,
    level: float = 0.1,
    threshold: str = "quantile:0.9",
    tasks: Sequence[str] = TASKS,
    site: str = "mlp_act",
    kind: str = "neuron",
    control: str = "none",
    change: Changed = lambda row: row,
    encoded_site: str | None = None,
    model: Settings | None = None,
    louvain: str | None = "igraph",
    nulls: int = 20,
) -> Run:
    """An si-modularity run of every layer whose SI is chosen; `louvain` is None without graphs."""
    rows = []
    for layer in range(DEPTHS[name]):
        for task in ("all", *tasks):
            row: dict[str, Cell] = dict.fromkeys(SI_COLUMNS)
            row |= {"layer": layer, "task": task, "threshold": threshold, "SI": level}
            row |= {"SI_low": level - 0.01, "SI_high": level + 0.02, "SI_adjusted": level / 2}
            row |= {"SI_adjusted_low": 0.0, "SI_adjusted_high": 1.0, "Q": 0.4, "z_Q": math.nan}
            row["n_communities"] = 5 if task == "all" else None
            rows.append(change(row))
    resolved = {
        **{"model": model or model_of(name), "acts": "gone" if acts is None else acts.name},
        **{"site": site, "kind": kind, "threshold": threshold, "tasks": list(tasks)},
        **{"control": control, "encoded_site": encoded_site},
    }
    graph = louvain is not None
    return written(
        work,
        "si-modularity",
        {"layers": ["all"], "graph": graph, "top_edges": 0, "nulls": nulls},
        resolved,
        {"si_modularity.csv": (SI_COLUMNS, rows)},
        decided={"louvain": louvain} if graph else {},
    )


def sources(*runs: Run) -> list[Source]:
    """What is read of them."""
    return [read_source(run) for run in runs]
