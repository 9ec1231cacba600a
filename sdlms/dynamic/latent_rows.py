"""The table of what gating does to SAE latents: `latents.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdlms.dynamic.document_draws import DocumentDraws, cells, with_interval
from sdlms.numerics.document_bootstrap import Estimate
from sdlms.runs.parts import Part

Row = dict[str, Any]
ALL = "all"  # the rows of all tasks
COLUMNS = [
    *("rule", "k", "site", "layer", "member", "task", "n_documents", "n_tokens"),
    *("l0_dense", "l0_gated"),
    *with_interval("kept_latents_fraction"),
    "new_latents_fraction",
    *("fvu_dense", "fvu_gated", "fvu_dense_from_gated"),
    *with_interval("fvu_difference"),
    "reason",
]


def rows_of(parts: Sequence[Part], seed: int) -> Iterator[Row]:
    """Rows by `COLUMNS`: of each part, which is a rule and a kept share, layers and their tasks.

    Intervals resample documents within tasks, the same for all layers of a part.

    Args:
        parts: of `Latents.measure`.
        seed: of the draws.
    """
    for part in parts:
        draws, names = DocumentDraws.of(part["document_tasks"], seed), part["task_names"]
        where = {ALL: np.ones(len(draws.tasks), dtype=np.bool_)}
        where |= {name: draws.tasks == number for number, name in enumerate(names)}
        for layer, sums in part["layers"].items():
            keys = {"rule": part["rule"], "k": part["keep"], "site": part["site"]}
            keys |= {"layer": int(layer), "member": part["members"][layer]}
            for task, own in where.items():
                yield {**keys, "task": task, **_Cells(sums, draws, own).row()}


@dataclass(frozen=True, eq=False)
class _Cells:
    """What one row is made of.

    Attributes:
        sums: `[document]` each, by the names of `latent_sums`.
        draws: of all documents.
        where: `[document]`, those of the row.
    """

    sums: Mapping[str, ArrayLike]
    draws: DocumentDraws
    where: NDArray[np.bool_]

    def row(self) -> Row:
        """All columns but those that name the row."""
        kept = self._ratio("both", "dense")
        own, gated = (self._ratio(f"{x}_error", f"{x}_energy") for x in ("dense", "gated"))
        new = np.asarray(self.sums["gated"]) - np.asarray(self.sums["both"])
        found: Row = {
            "n_documents": int(self.where.sum()),
            "n_tokens": int(np.asarray(self.sums["tokens"])[self.where].sum()),
            "l0_dense": float(self._ratio("dense", "tokens")[0]),
            "l0_gated": float(self._ratio("gated", "tokens")[0]),
            **cells("kept_latents_fraction", self._estimate(kept)),
            "new_latents_fraction": float(self.draws.ratio(new, self.sums["gated"], self.where)[0]),
            "fvu_dense": float(own[0]),
            "fvu_gated": float(gated[0]),
            "fvu_dense_from_gated": float(self._ratio("crossed_error", "dense_energy")[0]),
            **cells("fvu_difference", self._estimate(gated - own)),
        }
        return found | {"reason": _reason(found)}

    def _ratio(self, above: str, below: str) -> NDArray[np.float64]:
        return self.draws.ratio(self.sums[above], self.sums[below], self.where)

    def _estimate(self, draws: NDArray[np.float64]) -> Estimate:
        return self.draws.estimate(draws, self.where)


def _reason(found: Mapping[str, Any]) -> str:
    """Why something is NaN; empty where nothing is."""
    if not found["n_tokens"]:
        return "no token is scored"
    reasons = []
    if isnan(found["kept_latents_fraction"]):
        reasons.append("no latent fires in the dense model")
    if isnan(found["new_latents_fraction"]):
        reasons.append("no latent fires in the gated model")
    if isnan(found["fvu_difference"]):
        reasons.append("activations do not vary")
    known = ("kept_latents_fraction", "fvu_difference")
    if any(isnan(found[f"{name}_low"]) and not isnan(found[name]) for name in known):
        reasons.append("no interval: a task has one document, or too few where a latent fires")
    return "; ".join(reasons)
