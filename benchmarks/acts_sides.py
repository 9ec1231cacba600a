"""One side of an Acts benchmark in a process of its own, so that its peak memory is its own.

`python -m benchmarks.acts_sides SIDE FOLDER SHAPE` prints one JSON line: seconds, peak memory above
that before the work, bytes read through system calls, and what was computed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import set_environment

set_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.acts_data import (  # noqa: E402
    OURS,
    POOLED,
    PROBELAB,
    SHAPES,
    Shape,
    forget,
    labels_of,
    n_train,
)
from benchmarks.probe_sides import SIDES as TRAINING_SIDES  # noqa: E402
from sdlms.acts import Acts, load_acts  # noqa: E402
from sdlms.numerics.metrics import auroc  # noqa: E402
from sdlms.probes.logistic_fit import fit_logistic, standardised  # noqa: E402
from sdlms.probes.workers import spread  # noqa: E402

BATCH_DOCUMENTS = 64
RAW_BLOCK = 8 << 20
Result = dict[str, Any]
Scores = np.ndarray[Any, np.dtype[np.float32]]


def sweep_of(acts: Acts, shape: Shape) -> Result:
    """Pool each layer, fit on four fifths of the documents, score on the rest."""
    labels = labels_of(shape) == 1
    layers = (layer.tensor for _, layer in acts.iter_layers())
    fit = partial(_fit_and_score, torch.from_numpy(labels), n_train(shape))
    scores = list(spread(fit, layers, torch.get_num_threads()))
    return {"auroc": [auroc(score, labels[n_train(shape) :]) for score in scores]}


def _fit_and_score(labels: Tensor, first: int, x: Tensor) -> Scores:
    """Logits of the documents that were not trained on."""
    fit = fit_logistic(x[:first], labels[:first])
    return (standardised(x[first:], fit.mean, fit.std) @ fit.weight.float()).numpy()


def ours_sweep(folder: Path, shape: Shape) -> Result:
    """The first sweep, from disk; nothing is kept."""
    return sweep_of(load_acts(folder / OURS).mean_pool(), shape)


def ours_quarter(folder: Path, shape: Shape) -> Result:
    """The first sweep over a quarter of the layers."""
    layers = list(range(max(shape.layers // 4, 1)))
    return sweep_of(load_acts(folder / OURS).select_layers(layers).mean_pool(), shape)


def ours_cached(folder: Path, shape: Shape) -> Result:
    """The sweep on pooled activations, which an earlier one saved."""
    return sweep_of(load_acts(folder / POOLED), shape)


def ours_one_layer(folder: Path, shape: Shape) -> Result:
    """Every token of one layer, batch by batch."""
    acts = load_acts(folder / OURS).select_layers(shape.layers // 2)
    sample = 0.0
    for batch in acts.iter_batches(BATCH_DOCUMENTS):
        sample += float(batch.tensor[:, 0].sum(dtype=torch.float64))
    return {"sample": sample}


def ours_scan(folder: Path, shape: Shape) -> Result:
    """Every token of every layer, as it is stored, batch by batch."""
    n_values = 0
    for _, acts in load_acts(folder / OURS).iter_layers():
        for batch in acts.iter_batches(BATCH_DOCUMENTS):
            n_values += int(batch.mask.sum()) * acts.n_units  # type: ignore[union-attr]
    return {"values": n_values}


def raw_scan(folder: Path, shape: Shape) -> Result:
    """The same bytes, into one buffer."""
    buffer = np.empty(RAW_BLOCK, dtype=np.uint8)
    descriptor, offset = os.open(folder / OURS, os.O_RDONLY), 0
    while n_read := os.preadv(descriptor, [buffer.data], offset):
        offset += n_read
    os.close(descriptor)
    return {"bytes": offset}


def probelab_sweep(folder: Path, shape: Shape) -> Result:
    """The documented way: load, pool each layer, fit."""
    from probelab.probes import Logistic
    from probelab.storage import load_hdf5

    acts = load_hdf5(str(folder / PROBELAB))
    labels, first = torch.from_numpy(labels_of(shape)), n_train(shape)
    truth, found = (labels[first:] == 1).numpy(), []
    for _, layer in acts.iter_layers():
        pooled = layer.mean("s")
        train, test = _split(pooled, first)
        probe = Logistic(cast="float32").fit(train, labels[:first])
        found.append(auroc(probe.predict(test).float().numpy(), truth))
    return {"auroc": found}


def _split(pooled: Any, first: int) -> tuple[Any, Any]:
    """Train and test documents of probelab's activations."""
    from probelab import Activations

    parts = (pooled.data[:first], pooled.data[first:])
    train, test = (Activations.from_tensor(part, dims="bh") for part in parts)
    return train, test


def probelab_one_layer(folder: Path, shape: Shape) -> Result:
    """One layer, which reads all of them."""
    from probelab.storage import load_hdf5

    acts = load_hdf5(str(folder / PROBELAB), layers=shape.layers // 2)
    first_tokens = acts.data[acts.offsets[:-1]]
    return {"sample": float(first_tokens.sum(dtype=torch.float64))}


SIDES: dict[str, Callable[[Path, Shape], Result]] = {
    "ours: sweep": ours_sweep,
    "ours: sweep of a quarter": ours_quarter,
    "ours: sweep on pooled": ours_cached,
    "ours: one layer": ours_one_layer,
    "ours: scan": ours_scan,
    "raw: scan": raw_scan,
    "probelab: sweep": probelab_sweep,
    "probelab: one layer": probelab_one_layer,
    **TRAINING_SIDES,
}


def _status(name: str) -> int:
    """A size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _bytes_read() -> int:
    """Through system calls, from disk or cache."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def measured(work: Callable[[Path, Shape], Result], folder: Path, shape: Shape) -> Result:
    """Run one side with nothing of its files in the page cache."""
    for path in folder.glob("*.h5"):
        forget(path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, read, began = _status("VmRSS"), _bytes_read(), time.perf_counter()
    found = work(folder, shape)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "peak_bytes": _status("VmHWM") - before,
        "bytes_read": _bytes_read() - read,
        **found,
    }


def _warm() -> Iterator[str]:
    """Import what a side would otherwise import inside the measured time."""
    from sklearn.linear_model import LogisticRegression

    yield LogisticRegression.__name__
    if any(name.startswith("probelab") for name in sys.argv):
        from probelab.probes import Logistic
        from probelab.storage import load_hdf5

        yield f"{Logistic.__name__} {load_hdf5.__name__}"


if __name__ == "__main__":
    list(_warm())
    side, where, size = sys.argv[1:]
    print(json.dumps(measured(SIDES[side], Path(where), SHAPES[size])))
