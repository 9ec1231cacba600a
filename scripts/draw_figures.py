"""Capture the embedded sizes and draw them side by side, the README's picture: `make figures`."""

import subprocess
import sys
from pathlib import Path

from sdlms.errors import UserError
from sdlms.figures.sizes import sizes_figure
from sdlms.runs.provenance import git_state
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.storage.assets import asset_folder
from sdlms.storage.cards import embedded_models
from sdlms.storage.files import sha256_of

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "build/figures"
TARGET = ROOT / "docs/figures/sparsity-by-size.png"
MODELS = ("sdlms-small", "sdlms-medium", "sdlms-large")
# float32, because bfloat16 is chosen on some machines only.
SETTINGS = ("--layers", "all", "--no-save", "--dtype", "float32", "--label", "figures")


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
        for name, digest in resolved["model"][kind].items()
    }
    for task in resolved["data"]:
        recorded |= {asset_folder("data") / name: sha for name, sha in task["sources"].items()}
    return all(path.is_file() and sha256_of(path) == sha for path, sha in recorded.items())


def captured(model: str, artifacts: Path) -> Run:
    """The finished run of a model under `artifacts`, made if there is no current one.

    Raises:
        CalledProcessError: `sdlms capture` failed; it has said why.
    """
    for run in list_runs(artifacts):
        if run.complete and run.start["resolved"]["model"]["name"] == model:
            if is_current(run, model):
                return run
            remove(run)
    where = ("--model", model, "--artifacts", str(artifacts))
    command = [sys.executable, "-m", "sdlms", "capture", *where, *SETTINGS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Run(Path(done.stdout.splitlines()[-1]))


def draw(models: tuple[str, ...], artifacts: Path, target: Path) -> None:
    """Capture each model and draw all into `target`."""
    runs = [captured(model, artifacts) for model in models]
    tokens = f"{runs[0].start['config']['max_tokens']:,} tokens per task"
    title = f"MLP neurons of the embedded models on the probe tasks ({tokens})"
    target.parent.mkdir(parents=True, exist_ok=True)
    sizes_figure(runs, title).savefig(target, dpi=160)


def main() -> None:
    """Draw the README's picture and say where it is."""
    if missing := [model for model in MODELS if model not in embedded_models()]:
        sys.exit(
            f"make figures: the package has no {', no '.join(missing)}. "
            "How models are trained: scripts/README.md"
        )
    try:
        draw(MODELS, RUNS, TARGET)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except UserError as error:
        sys.exit(f"make figures: {error}")
    print(TARGET)


if __name__ == "__main__":
    main()
