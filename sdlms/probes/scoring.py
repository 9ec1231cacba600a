"""From probabilities to the rows of `probe.csv` and `predictions.csv`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.bootstrap import auroc_interval
from sdlms.numerics.metrics import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    recall_at_false_positive_rate,
)
from sdlms.probes.controls import CONTROLS
from sdlms.storage.tables import Cell

N_RESAMPLES = 1000
METRICS = [
    "auroc",
    "auroc_low",
    "auroc_high",
    "accuracy",
    "balanced_accuracy",
    "average_precision",
    "brier",
    "recall_at_fpr_01",
    "recall_at_fpr_05",
]
COLUMNS = ["layer", "kind", "seed", "label", "n_train", "n_test", *METRICS, "converged"]
PREDICTION_COLUMNS = [
    "document_id",
    "token",
    "layer",
    "kind",
    "seed",
    "label",
    "target",
    "probability",
]


@dataclass(frozen=True, eq=False)
class Judged:
    """What one probe says of the examples it is tested on.

    Attributes:
        layer: of the model.
        kind: of the probe, or of the control.
        seed: of the split and of what the probe draws.
        label: the class that is told from the rest.
        n_train: examples that the probe was fitted on.
        converged: whether the solver or the training came to its end.
        probabilities: `[example]` float32 in [0, 1].
        targets: `[example]` bool.
        documents: `[example]` index of each example's document.
    """

    layer: int
    kind: str
    seed: int
    label: str
    n_train: int
    converged: bool
    probabilities: NDArray[np.float32]
    targets: NDArray[np.bool_]
    documents: NDArray[np.int64]

    @property
    def names(self) -> dict[str, Cell]:
        """Which probe it is."""
        return {"layer": self.layer, "kind": self.kind, "seed": self.seed, "label": self.label}


def metrics_row(judged: Judged) -> dict[str, Cell]:
    """One row of `probe.csv`; the interval of AUROC is a bootstrap over documents.

    Of a probe that says NaN every metric is NaN.
    """
    counts: dict[str, Cell] = {"n_train": judged.n_train, "n_test": len(judged.targets)}
    if np.isnan(judged.probabilities).any():
        found: dict[str, Cell] = dict.fromkeys(METRICS, math.nan)
    else:
        found = _metrics(judged)
    return {**judged.names, **counts, **found, "converged": "yes" if judged.converged else "no"}


def _metrics(judged: Judged) -> dict[str, Cell]:
    """Every metric of what a probe says."""
    scores, targets = judged.probabilities, judged.targets
    low, high = auroc_interval(
        scores, targets, judged.documents, n_resamples=N_RESAMPLES, seed=judged.seed
    )
    return {
        "auroc": auroc(scores, targets),
        "auroc_low": low,
        "auroc_high": high,
        "accuracy": accuracy(scores, targets),
        "balanced_accuracy": balanced_accuracy(scores, targets),
        "average_precision": average_precision(scores, targets),
        "brier": brier(scores, targets),
        "recall_at_fpr_01": recall_at_false_positive_rate(scores, targets, 0.01),
        "recall_at_fpr_05": recall_at_false_positive_rate(scores, targets, 0.05),
    }


def prediction_rows(
    judged: Judged, document_ids: list[str], tokens: NDArray[np.int64] | None
) -> Iterator[dict[str, Cell]]:
    """Rows of `predictions.csv`, one per example.

    Args:
        judged: the probe and what it says.
        document_ids: of the documents that `judged.documents` counts.
        tokens: `[example]` each example's place in its document; None where documents are judged.
    """
    places = [None] * len(judged.targets) if tokens is None else tokens.tolist()
    columns = (judged.documents.tolist(), places, judged.targets.tolist(), judged.probabilities)
    for document, token, target, probability in zip(*columns, strict=True):
        yield {
            "document_id": document_ids[document],
            "token": token,
            **judged.names,
            "target": int(target),
            "probability": f"{probability:.9g}",  # enough digits for every float32
        }


def best_lines(rows: list[dict[str, Cell]]) -> Iterator[str]:
    """One line per kind: its AUROC at the best layer; of a control, which chooses none, at all.

    Means over labels and seeds; a label without AUROC is left out.
    """
    for kind in dict.fromkeys(row["kind"] for row in rows):
        values: dict[Cell, list[float]] = {}
        for row in rows:
            if row["kind"] == kind and not math.isnan(found := float(row["auroc"] or 0)):
                values.setdefault(row["layer"], []).append(found)
        means = {layer: fmean(own) for layer, own in values.items()}
        if not means:
            continue
        if kind in CONTROLS:
            yield f"{kind} (a control): AUROC {fmean(means.values()):.3f} over all layers"
        else:
            best = max(means, key=means.__getitem__)
            yield f"{kind}: AUROC {means[best]:.3f} at layer {best}, its best"
