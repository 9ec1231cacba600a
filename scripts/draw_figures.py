"""Draw the README's picture from the newest capture run: `make figures`."""

import os
from pathlib import Path

from sdlms.figures.sparsity import sparsity_figure
from sdlms.runs.reading import find_run

TARGET = Path("docs/figures/sparsity.png")


def main() -> None:
    """Draw the newest capture run's sparsity into `docs/figures/`."""
    run = find_run(Path(os.environ.get("SDLMS_ARTIFACTS", "artifacts")), "latest", "capture")
    model = run.start["resolved"]["model"]["name"]
    n_tokens = run.records[-1]["tokens"]
    title = f"{model}: MLP neurons on {n_tokens:,} tokens (bars: 95 % intervals over documents)"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    sparsity_figure(run.path / "sparsity.csv", title).savefig(TARGET, dpi=160)
    print(TARGET)


if __name__ == "__main__":
    main()
