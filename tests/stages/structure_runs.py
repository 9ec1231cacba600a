"""Real captures of `sdlms-small`, made once: the model itself, fresh weights, permuted tokens."""

import json
import shutil
from pathlib import Path

import pytest

from tests.stages.gating_runs import run_in

MODEL = "sdlms-small"
CAPTURE = ["--model", MODEL, "--layers", "1,2", "--max-tokens", "2500", "--dtype", "float32"]
QUICK = ["--threads", "1", "--quiet"]
CONTROLS = ("none", "reinit", "permute-tokens")


def captures(factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`control -> run`."""
    folder = factory.mktemp("captures")
    found = {}
    for control in CONTROLS:
        words = ["capture", *CAPTURE, *QUICK, "--control", control, "--label", control]
        found[control] = run_in(folder, words)
    return found


def placed(runs: dict[str, Path], work: Path) -> dict[str, str]:
    """Copies under `artifacts/` of a working folder; `control -> name`."""
    for run in runs.values():
        shutil.copytree(run, work / "artifacts" / run.name)
    return {control: run.name for control, run in runs.items()}


def resolved(run: Path) -> dict[str, object]:
    """What the run says its inputs turned out to be."""
    with (run / "meta.jsonl").open() as file:
        found: dict[str, object] = json.loads(next(file))["resolved"]
    return found
