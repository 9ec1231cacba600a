"""The models and data that runs were made of, each once, and the software that made them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sdlms.report.html import NONE, Content, element, grid
from sdlms.runs.reading import Run

MODEL_COLUMNS = ("model", "revision", "kind", "layers", "parameters", "files", "sha256")
DATA_COLUMNS = ("source", "tasks", "sha256")


def models_table(runs: Iterable[Run]) -> Content:
    """Every model with the hashes of its files."""
    models = [run.start.get("resolved", {}).get("model") for run in runs]
    rows = _once(_model_row(model) for model in models if isinstance(model, dict))
    return grid("models", MODEL_COLUMNS, rows) if rows else NONE


def _model_row(model: dict[str, Any]) -> list[Content]:
    """One model."""
    hashes = [pair for kind in ("config", "weights", "tokenizer") for pair in _pairs(model, kind)]
    revision = model.get("commit") or model.get("revision") or NONE
    seed = model.get("reinit_seed")
    fresh = "" if seed is None else f", fresh weights of seed {seed}"
    n_parameters = model.get("n_parameters")
    return [
        f"{model.get('name')}{fresh}",
        str(revision),
        str(model.get("model_type", NONE)),
        str(model.get("n_layers", NONE)),
        f"{n_parameters:,}" if isinstance(n_parameters, int) else NONE,
        _lines(name for name, _ in hashes),
        element("code", _lines(digest for _, digest in hashes)),
    ]


def _pairs(model: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    """File and hash of one kind."""
    files = model.get(kind)
    if not isinstance(files, dict):
        return []
    return [(str(name), str(digest)) for name, digest in files.items()]


def _lines(words: Iterable[str]) -> list[Content]:
    """One below the other."""
    lines = [part for word in words for part in (element("br"), word)]
    return list(lines[1:])


def data_table(runs: Iterable[Run]) -> Content:
    """Every file and data set of texts with its hash, and the tasks that are in it."""
    tasks = [task for run in runs for task in run.start.get("resolved", {}).get("data") or []]
    found: dict[tuple[str, str], dict[str, None]] = {}
    for task in tasks:
        for source in _sources(task):
            found.setdefault(source, {})[str(task.get("task", NONE))] = None
    rows: list[list[Content]] = [
        [element("code", name), ", ".join(names), element("code", digest)]
        for (name, digest), names in found.items()
    ]
    return grid("data", DATA_COLUMNS, rows) if rows else NONE


def _sources(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Files with their hashes; data sets with the hash of what was read of them."""
    for name, digest in (task.get("sources") or {}).items():
        yield str(name), str(digest)
    for source in task.get("datasets") or []:
        described = {key: value for key, value in source.items() if key != "sha256"}
        yield json.dumps(described, ensure_ascii=False), str(source.get("sha256", NONE))


def software(runs: Iterable[Run]) -> Content:
    """Versions and machines, a column for each that differs from the others."""
    made: dict[str, tuple[dict[str, str], list[str]]] = {}
    for run in runs:
        found = _environment(run)
        made.setdefault(json.dumps(found), (found, []))[1].append(run.name)
    names = list(dict.fromkeys(name for found, _ in made.values() for name in found))
    rows: list[list[Content]] = [
        [name, *(found.get(name, NONE) for found, _ in made.values())] for name in names
    ]
    rows.insert(0, ["runs", *(_lines(runs) for _, runs in made.values())])
    columns = [f"{number}" for number in range(1, len(made) + 1)]
    return grid("software", ("", *columns), rows)


def _environment(run: Run) -> dict[str, str]:
    """What made a run."""
    start = run.start
    git = start.get("git") or {}
    commit = f"{git['commit']}{', with changes' if git.get('dirty') else ''}" if git else NONE
    names = ("python", "platform", "host", "cpu_count")
    found = {"sdlms": str(start.get("version", NONE)), "commit": commit}
    found |= {name.replace("_", " "): str(start.get(name, NONE)) for name in names}
    packages = start.get("packages") or {}
    return found | {name: str(version) for name, version in packages.items() if version}


def _once(rows: Iterable[list[Content]]) -> list[list[Content]]:
    """Rows, each once."""
    return list({repr(row): row for row in rows}.values())
