"""The whole study in small, through the real command line, in the order of the demo pipeline."""

import shutil
from pathlib import Path

import pytest

from sdlms.cli import main
from sdlms.runs.reading import Run, list_runs

COMMON = ("--threads", 1, "--quiet")
SMALL = ("--model", "sdlms-small")
CAPTURE = ("--tasks", "math,qa,dialogue", "--layers", "1,2", "--max-tokens", 2000)
GATED = ("--rule", "post-norm,random", "--keep", "0.5,1.0", "--seeds", 1, "--max-tokens", 300)
QUALITY = ("--layers", "none", "--measure", "quality", "--keep", 0.3, "--max-tokens", 100)
TIMED = ("--rounds", 1, "--backend", "torch", "--layers", "50%", "--calibration-tokens", 600)
TUNED = ("--tuned", "--tuned-steps", 3, "--tuned-tokens", 400, "--max-tokens", 800)
AUTOENCODERS = ("--arch", "topk", "--k", "4,8", "--width", 48, "--tokens", 6000, "--ce-tokens", 300)


def make_study(artifacts: Path) -> list[Run]:
    """Runs of all stages that notebooks show, oldest first.

    As in the demo, the newest of a stage is not always the one to show: of captures it is one of
    the residual stream, of dynamic-k one that measured no speed, of si-modularity one without
    graphs and ablation, of probe and sae-latents one of a control; among the captures are controls.
    """
    medium = made(artifacts, "capture", "--model", "sdlms-medium", *CAPTURE)
    small = made(artifacts, "capture", *SMALL, *CAPTURE)
    controls = [
        made(artifacts, "capture", *SMALL, *CAPTURE, "--control", control)
        for control in ("reinit", "permute-tokens")
    ]
    at_residuals = (*SMALL, *CAPTURE, "--site", "resid_post")
    permuted = ("--acts", made(artifacts, "capture", *at_residuals, "--control", "permute-tokens"))
    resid = ("--acts", made(artifacts, "capture", *at_residuals))
    trained = made(artifacts, "sae-train", *resid, *AUTOENCODERS)
    for acts in (resid, permuted):
        made(artifacts, "sae-latents", *acts, "--sae", trained)
    between = ("--layers", 1, "--controls", ",".join(controls), "--nulls", 2, "--ablate")
    made(artifacts, "si-modularity", "--acts", small, *between)
    made(artifacts, "si-modularity", "--acts", small, "--layers", 1, "--no-graph")
    made(artifacts, "dynamic-k", *SMALL, *GATED, *TIMED)
    made(artifacts, "dynamic-k", *SMALL, *QUALITY)
    made(artifacts, "logit-lens", *SMALL, *CAPTURE[:2], *TUNED)
    made(artifacts, "logit-lens", *SMALL, *CAPTURE[:2], "--max-tokens", 800)
    for acts in (resid, permuted):
        made(artifacts, "probe", *acts, "--kinds", "logistic,mass_mean")
    made(artifacts, "scaling", "--runs", f"{small},{medium}")
    return list_runs(artifacts)


def make_lean_study(study: Path, artifacts: Path) -> None:
    """Of each stage the newest run of a study: no ablation, graphs, speed, tuned lens, neurons.

    Args:
        study: where `make_study` wrote.
        artifacts: where to copy them.
    """
    newest = {run.stage: run for run in list_runs(study)}
    del newest["sae-latents"]
    for run in newest.values():
        shutil.copytree(run.path, artifacts / run.name)


def made(artifacts: Path, stage: str, *words: object) -> str:
    """The name of the run that a command makes."""
    threads = COMMON if stage != "scaling" else COMMON[2:]
    with pytest.raises(SystemExit) as stopped:
        main([stage, "--artifacts", str(artifacts), *map(str, (*words, *threads))])
    assert not stopped.value.code, stage
    return list_runs(artifacts)[-1].name
