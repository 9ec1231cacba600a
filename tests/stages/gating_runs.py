"""What tests of dynamic-k share: quick settings, and runs that it reads beside the model."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from sdlms.cli import main
from sdlms.dynamic.reading import read_text
from sdlms.dynamic.tables import TIMED
from sdlms.dynamic.windows import Drawn, WindowSettings
from sdlms.models.loading import find_model, load_causal_model, load_config
from sdlms.models.tokens import Text
from sdlms.runs.reading import Run, list_runs
from sdlms.tasks import load_tasks
from tests.stages.probe_runs import outputs, table

MODEL = "sdlms-small"
TASKS = ["python_code", "math", "qa", "prose", "dialogue", "reasoning"]
LENGTHS = WindowSettings(window=64, stride=32, max_tokens=60, calibration_tokens=384)
QUICK = ["--threads", "1", "--quiet"]
SMALL = [
    *("--model", MODEL, "--dtype", "float32", "--window", "64", "--max-tokens", "60"),
    *("--calibration-tokens", "384", "--keep", "0.5,1", "--seeds", "1", *QUICK),
]
FAST = [*SMALL, "--layers", "none", "--rounds", "1"]
MASKED = [*SMALL, "--layers", "none", "--measure", "quality"]
TIMED_ALONE = [*SMALL, "--rounds", "1", "--measure", "speed"]
STRUCTURE = ["--nulls", "1", *QUICK]
TRAINING = [
    *("--layers", "2", "--tokens", "4096", "--expansion", "1", "--arch", "topk", "--k", "8"),
    *("--ce-tokens", "0", *QUICK),
]


def runs_beside(folder: Path, captures: dict[str, str]) -> dict[str, Path]:
    """Runs of real captures of the small model and of a control.

    Args:
        folder: whose `artifacts/` hold the captures.
        captures: `control -> name`.

    Returns:
        `si`: communities and specialized neurons; `control`: the same of fresh weights, without
        communities; `sae`: latents of one layer's neurons.
    """
    commands = {
        "si": ["si-modularity", "--acts", captures["none"], *STRUCTURE],
        "control": ["si-modularity", "--acts", captures["reinit"], "--no-graph", *QUICK],
        "sae": ["sae-train", "--acts", captures["none"], *TRAINING],
    }
    return {name: run_in(folder, words) for name, words in commands.items()}


def run_in(folder: Path, words: list[str]) -> Path:
    """The run that a command makes in some folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as stopped:
            main(words)
    assert not stopped.value.code
    return list_runs(folder / "artifacts")[-1].path


def untimed(run: Path) -> dict[str, object]:
    """Every output: the tables' cells without measured times, of others the hash."""
    found: dict[str, object] = dict(outputs(run))
    for record in Run(run).all_of("output"):
        if "timed" in record:
            assert record["timed"] == TIMED
            rows = table(run, record["path"])
            found[record["path"]] = [
                {name: cell for name, cell in row.items() if name not in TIMED} for row in rows
            ]
    return found


def drawn_by_the_stage(lengths: WindowSettings = LENGTHS, seed: int = 0) -> Drawn:
    """The windows of the embedded text that a run with these settings reads."""
    source = find_model(MODEL, None)
    tasks = load_tasks(("heldout",), None, "text")
    texts = [[Text(item.id, task.name, item.text) for item in task.documents] for task in tasks]
    return read_text(source, load_config(source), texts, lengths, [seed])[seed]


def small_model() -> PreTrainedModel:
    """The model in float32."""
    import torch

    return load_causal_model(find_model(MODEL, None), torch.float32, torch.device("cpu"))
