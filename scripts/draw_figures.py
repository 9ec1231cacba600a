"""Measure the embedded models and draw the pictures of README and docs: `make figures`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.ablation import ablation_figure
from sdlms.figures.communities import communities_figure
from sdlms.figures.controls import controls_figure
from sdlms.figures.dynamic_k import quality_figure
from sdlms.figures.latents import latent_panels
from sdlms.figures.lens import curves_figure
from sdlms.figures.probes import auroc_figure
from sdlms.figures.sae import densities_figure, front_figure
from sdlms.figures.scaling import trends_figure
from sdlms.figures.sizes import sizes_figure
from sdlms.figures.sparsity import sparsity_figure
from sdlms.figures.speedups import speed_figure
from sdlms.runs.provenance import git_state
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.storage.assets import asset_folder
from sdlms.storage.cards import embedded_models
from sdlms.storage.files import sha256_of

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "build/figures"
TARGETS = (
    ROOT / "docs/figures/sparsity-by-size.png",
    ROOT / "docs/figures/specialization-and-its-controls.png",
)
GATED_TARGET = ROOT / "docs/figures/perplexity-and-bytes.png"
MODELS = ("sdlms-small", "sdlms-medium", "sdlms-large")
# float32, because bfloat16 is chosen on some machines only.
SETTINGS = ("--layers", "all", "--dtype", "float32", "--label", "figures")
GATED_SETTINGS = (
    *("--rule", "post-norm,post-abs,threshold,top-p,input,sequence,pre-abs,static,random"),
    *("--measure", "quality", "--layers", "none", "--seeds", "1", "--max-tokens", "4000"),
    *("--dtype", "float32", "--label", "figures"),
)
LENS_TARGET = ROOT / "docs/figures/logit-lens.png"
LENS_MODEL = "sdlms-large"
LENS_SETTINGS = ("--tuned", "--dtype", "float32", "--unembed", "float32", "--label", "figures")
# The other pictures are of the runs that `make pipeline` makes.
STUDY, STUDY_MODEL = ROOT / "configs/pipeline/demo.toml", "sdlms-medium"
STUDY_TARGETS = ROOT / "docs/figures"
CONTROLS = ("none", "reinit", "permute-tokens")
KEPT = ("reinit",)  # whose activations give thresholds at which it fires as often as the model


def is_current(run: Run, model: str) -> bool:
    """Whether a run was made of this commit, and of the model and the texts as they are now.

    Changes of the code that are not committed are not seen; `make clean` forgets all runs.
    """
    resolved, git = run.start["resolved"], git_state(ROOT / "sdlms") or {}
    if (run.start.get("git") or {}).get("commit") != git.get("commit"):
        return False
    recorded = {
        asset_folder("models") / model / name: digest
        for kind in ("config", "weights", "tokenizer")
        if kind != "weights" or resolved["control"] != "reinit"  # these are in no file
        for name, digest in resolved["model"][kind].items()
    }
    for task in resolved["data"]:
        recorded |= {asset_folder("data") / name: sha for name, sha in task["sources"].items()}
    return all(path.is_file() and sha256_of(path) == sha for path, sha in recorded.items())


def captured(model: str, artifacts: Path, control: str = "none") -> Run:
    """The finished run of a model under `artifacts`, made if there is no current one.

    Raises:
        CalledProcessError: `sdlms capture` failed; it has said why.
    """
    for run in list_runs(artifacts):
        if run.complete and run.stage == "capture" and what_of(run) == (model, control):
            if is_current(run, model):
                return run
            forget(run)
    what = ("--model", model, "--control", control, *(() if control in KEPT else ("--no-save",)))
    return Run(run_stage("capture", artifacts, *what, *SETTINGS))


def what_of(run: Run) -> tuple[str, str]:
    """Model and control of a run."""
    resolved = run.start["resolved"]
    return resolved["model"]["name"], resolved["control"]


def specialized(model: str, artifacts: Path) -> Run:
    """How specialized a model's neurons are, beside its controls; made if there is no such run."""
    own, *controls = [captured(model, artifacts, control) for control in CONTROLS]
    inputs = {run.name for run in (own, *controls)}
    for run in list_runs(artifacts):
        read = {record["run"] for record in run.all_of("input")}
        if run.complete and run.stage == "si-modularity" and read == inputs:
            return run
    named = ("--acts", own.name, "--controls", ",".join(run.name for run in controls))
    return Run(run_stage("si-modularity", artifacts, *named, "--no-graph"))


def measured(stage: str, model: str, artifacts: Path, settings: tuple[str, ...]) -> Run:
    """The finished run of a stage that needs no other run, made if there is no current one.

    Raises:
        CalledProcessError: the stage failed; it has said why.
    """
    for run in list_runs(artifacts):
        if run.complete and run.stage == stage and what_of(run)[0] == model:
            if is_current(run, model):
                return run
            remove(run)
    return Run(run_stage(stage, artifacts, "--model", model, *settings))


def forget(capture: Run) -> None:
    """Delete a capture, and what was made of it."""
    for run in list_runs(capture.path.parent):
        if capture.name in {record["run"] for record in run.all_of("input")}:
            remove(run)
    remove(capture)


def run_stage(stage: str, artifacts: Path, *settings: str) -> Path:
    """The run that a stage makes."""
    command = [sys.executable, "-m", "sdlms", stage, "--artifacts", str(artifacts), *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


def draw(models: tuple[str, ...], artifacts: Path, targets: tuple[Path, Path]) -> None:
    """Capture each model, measure its controls, and draw both pictures."""
    runs = [captured(model, artifacts) for model in models]
    tokens = f"{runs[0].start['config']['max_tokens']:,} tokens per task"
    what = f"of the embedded models on the probe tasks ({tokens})"
    beside = [specialized(model, artifacts) for model in models]
    figures = (
        sizes_figure(runs, f"MLP neurons {what}"),
        controls_figure(beside, f"Specialization of MLP neurons {what}"),
    )
    for figure, target in zip(figures, targets, strict=True):
        save(figure, target)


def draw_gated(models: tuple[str, ...], artifacts: Path, target: Path) -> None:
    """Gate each model, and draw what it loses."""
    runs = [measured("dynamic-k", model, artifacts, GATED_SETTINGS) for model in models]
    tokens = f"{runs[0].start['config']['max_tokens']:,} tokens per task"
    save(quality_figure(runs, f"What dropping neurons costs on held-out text ({tokens})"), target)


def draw_lens(model: str, artifacts: Path, target: Path) -> None:
    """Look through both lenses, and draw what they say of the layers."""
    run = measured("logit-lens", model, artifacts, LENS_SETTINGS)
    tokens = f"{run.start['config']['max_tokens']:,} tokens per task"
    save(curves_figure(run, f"What {model} would say after each layer ({tokens})"), target)


def studied(config: Path, artifacts: Path) -> list[Run]:
    """The runs of a pipeline, those reused that this commit has made already.

    Raises:
        CalledProcessError: a step failed; it has said why.
    """
    commit = (git_state(ROOT / "sdlms") or {}).get("commit", "unknown")
    command = [sys.executable, "-m", "sdlms", "pipeline", "--config", str(config)]
    command += ["--artifacts", str(artifacts / str(commit))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Run(Path(line)) for line in done.stdout.splitlines()]


def draw_study(runs: Sequence[Run], model: str, folder: Path) -> list[Path]:
    """A picture or more of each stage that a study has, of one model where there are several."""

    def of(stage: str) -> Run:
        """The first run of a stage that is of the model, or of no model alone."""
        own = [run for run in runs if run.stage == stage and model_of(run) in (model, None)]
        return own[0]

    structure = of("si-modularity")
    figures = {
        "sparsity": sparsity_figure(of("capture"), f"How sparse {model} is"),
        "sae-front": front_figure(of("sae-train"), f"Sparse autoencoders of {model}"),
        "sae-densities": densities_figure(of("sae-train"), f"Sparse autoencoders of {model}"),
        "sae-latents": latent_panels(of("sae-latents"), f"Latents of {model}", runs),
        "communities": communities_figure(structure, f"Neurons of {model} that fire together"),
        "ablation": ablation_figure(structure, f"Without the specialized neurons of {model}"),
        "decode-speed": speed_figure([of("dynamic-k")], "What gating gains, one token at a time"),
        "probes": auroc_figure(of("probe"), f"What probes read off the layers of {model}"),
        "scaling": trends_figure(of("scaling"), "Specialization and size", "si-modularity"),
    }
    targets = [folder / f"{name}.png" for name in figures]
    for figure, target in zip(figures.values(), targets, strict=True):
        save(figure, target)
    return targets


def model_of(run: Run) -> str | None:
    """The model that a run is of; None where it says none, or several."""
    return (run.start["resolved"].get("model") or {}).get("name")


def save(figure: Figure, target: Path) -> None:
    """Write a picture."""
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=160)


def main() -> None:
    """Draw the pictures and say where they are."""
    if missing := [model for model in MODELS if model not in embedded_models()]:
        sys.exit(
            f"make figures: the package has no {', no '.join(missing)}. "
            "How models are trained: scripts/README.md"
        )
    try:
        draw(MODELS, RUNS, TARGETS)
        draw_gated(MODELS, RUNS, GATED_TARGET)
        draw_lens(LENS_MODEL, RUNS, LENS_TARGET)
        drawn = draw_study(studied(STUDY, RUNS / "study"), STUDY_MODEL, STUDY_TARGETS)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except UserError as error:
        sys.exit(f"make figures: {error}")
    print("\n".join(str(target) for target in (*TARGETS, GATED_TARGET, LENS_TARGET, *drawn)))


if __name__ == "__main__":
    main()
