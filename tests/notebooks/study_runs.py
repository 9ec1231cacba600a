"""The whole study in small, through the real command line: what every notebook has to draw."""

from pathlib import Path

import pytest

from sdlms.cli import main
from sdlms.runs.reading import Run, list_runs

COMMON = ("--threads", 1, "--quiet")
SMALL = ("--model", "sdlms-small")
CAPTURE = ("--tasks", "math,qa,dialogue", "--layers", "1,2", "--max-tokens", 2000)
SITES = ("--site", "mlp_act,resid_post")
GATED = ("--rule", "post-norm,random", "--keep", "0.5,1.0", "--seeds", 1, "--max-tokens", 300)
TIMED = ("--rounds", 1, "--backend", "torch", "--layers", "50%", "--calibration-tokens", 600)
TUNED = ("--tuned", "--tuned-steps", 3, "--tuned-tokens", 400, "--max-tokens", 800)
AUTOENCODERS = ("--arch", "topk", "--k", "4,8", "--width", 48, "--tokens", 6000, "--ce-tokens", 300)


def make_study(artifacts: Path) -> list[Run]:
    """Runs of all stages that notebooks show, controls among them, oldest first."""
    medium = made(artifacts, "capture", "--model", "sdlms-medium", *CAPTURE, *SITES)
    small = made(artifacts, "capture", *SMALL, *CAPTURE, *SITES)
    controls = [
        made(artifacts, "capture", *SMALL, *CAPTURE, "--control", control)
        for control in ("reinit", "permute-tokens")
    ]
    acts, resid = ("--acts", small), ("--site", "resid_post")
    trained = made(artifacts, "sae-train", *acts, *resid, *AUTOENCODERS)
    made(artifacts, "sae-latents", *acts, "--sae", trained)
    between = ("--layers", 1, "--controls", ",".join(controls), "--nulls", 2, "--ablate")
    made(artifacts, "si-modularity", *acts, "--site", "mlp_act", *between)
    made(artifacts, "dynamic-k", *SMALL, *GATED, *TIMED)
    made(artifacts, "logit-lens", *SMALL, *CAPTURE[:2], *TUNED)
    made(artifacts, "probe", *acts, *resid, "--kinds", "logistic,mass_mean")
    made(artifacts, "scaling", "--runs", f"{small},{medium}")
    return list_runs(artifacts)


def made(artifacts: Path, stage: str, *words: object) -> str:
    """The name of the run that a command makes."""
    threads = COMMON if stage != "scaling" else COMMON[2:]
    with pytest.raises(SystemExit) as stopped:
        main([stage, "--artifacts", str(artifacts), *map(str, (*words, *threads))])
    assert not stopped.value.code, stage
    return list_runs(artifacts)[-1].name
