"""Studies of a tiny random model, and studies all of whose parts are made up."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from sdlms.dynamic.losses import DocumentLosses
from sdlms.dynamic.study import Study, StudySettings
from sdlms.dynamic.windows import Drawn
from sdlms.runs.parts import Parts
from tests.dynamic.random_windows import random_windows
from tests.models.tiny_models import random_model

SETTINGS = StudySettings(
    rules=("post-norm",),
    keeps=(0.25, 0.5, 1.0),
    layers=(1,),
    seeds=(3,),
    backend="torch",
    rounds=1,
    budget=1000,
    force_at_one=False,
)
Blocks = Mapping[int, NDArray[np.int64]]
# A configuration's times by its kept fraction: a token takes as long as is kept, and 1 s more.
CONFIGURATIONS = {"dense": 3.0, "forced": 2.0, "0.25": 1.25, "0.5": 1.5}


def study_of(folder: Path, blocks: Blocks | None = None, **settings: Any) -> Study:
    """A tiny model and random tokens, other ones for each seed."""
    chosen = replace(SETTINGS, **settings)
    drawn = {
        seed: Drawn(random_windows(seed=seed + 100).ids, random_windows(seed=seed))
        for seed in chosen.seeds
    }
    model = random_model("gpt_neox-parallel", AutoModelForCausalLM)
    return Study(model, drawn, blocks, chosen, Parts(folder / "parts"), lambda _: None)


def made_times(factor: float) -> dict[str, Any]:
    """What `measure_speed` returns, had it measured these times."""
    found = {}
    for name, seconds in CONFIGURATIONS.items():
        keep = float(name) if name[0] == "0" else 1.0
        found[name] = {
            "keep": keep,
            "prefill": [factor * seconds * 10],
            "decode": [[factor * seconds] * 3],
            "mlp": [[factor * seconds / 10]],
            "kept": [keep],
        }
    return {"prompt_tokens": 5, "configurations": found}


def write_part(study: Study, folder: Path, name: str, part: Mapping[str, Any]) -> None:
    """Leave a part where the study looks for it, so that nothing is measured."""
    path = folder / "parts" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(part))
    assert study.parts.has(name)


def losses_part(losses: DocumentLosses, kept: float) -> dict[str, Any]:
    """What `measure_quality` returns, had it measured these losses.

    The tasks keep a tenth less and a tenth more, as rules without a count do.
    """
    by_task = [0.9 * kept, 1.1 * kept] if kept < 1 else [1.0, 1.0]
    return {**losses.record(), "kept_fraction": kept, "kept_by_task": by_task}
