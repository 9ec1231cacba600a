"""One side of the lens benchmark that may run under another interpreter: it needs nothing of ours.

`PYTHON benchmarks/lens_peer.py FOLDER` runs tuned-lens' own path on the model and the token ids of
a folder and prints one JSON line. tuned-lens and TransformerLens ask for versions of transformers
that exclude each other, so that it has an environment of its own: `SDLMS_BENCH_PEER_PYTHON`.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

IDS = "ids.npy"
WARM_UP = 8  # tokens

Lensing = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def tuned_lens(folder: Path) -> Callable[[], Lensing]:
    """Its trajectory and the statistic that needs least of it; the model is loaded beforehand."""
    from transformers import AutoModelForCausalLM
    from tuned_lens.nn.lenses import LogitLens
    from tuned_lens.plotting import PredictionTrajectory

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    in_memory(model)

    def prepare() -> Lensing:
        lens = LogitLens.from_model(model)

        def work(ids: NDArray[np.int64]) -> NDArray[np.float32]:
            found = PredictionTrajectory.from_lens_and_model(lens, model, ids.tolist())
            largest: NDArray[np.float32] = found.max_probability().stats.T
            return largest

        return work

    return prepare


def in_memory(model: torch.nn.Module) -> None:
    """Read every weight: a file that is mapped takes memory only as it is read."""
    for parameter in model.requires_grad_(False).parameters():
        parameter.sum()


def measured(prepare: Callable[[], Lensing], folder: Path, side: str) -> dict[str, Any]:
    """Prepare and run a side; its largest probabilities go to a file for the comparison.

    Peak memory counts from the loaded model on: what is prepared once is in it.
    """
    sequences = np.load(folder / IDS)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began = _status("VmRSS"), time.perf_counter()
    work = prepare()
    prepared = time.perf_counter() - began
    work(sequences[0, :WARM_UP])
    began, cpu = time.perf_counter(), time.process_time()
    found = [work(ids) for ids in sequences]
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    peak = _status("VmHWM") - before
    np.save(folder / f"{side}.npy", np.stack(found))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "prepare_seconds": prepared,
        "peak_bytes": peak,
    }


def _status(name: str) -> int:
    """A size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(json.dumps(measured(tuned_lens(where), where, "tuned-lens")))
