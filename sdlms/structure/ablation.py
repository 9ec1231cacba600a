"""Does specialization matter? The most specialized units of each task are held at their mean.

What that does to the loss in the task is compared with what it does to other tasks, and with what
random units do that are as many and fire about as often. A specialized unit that changes nothing is
a correlation. Units are chosen and measured on the same documents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.models.batching import DEFAULT_BUDGET
from sdlms.models.recorded import load_recorded_causal_model
from sdlms.models.tokens import documents_within
from sdlms.runs.parts import Part
from sdlms.sae.cross_entropy import Scoring
from sdlms.storage.counts import masked_lengths
from sdlms.structure.ablated_site import AblatedSite, or_without_ablation
from sdlms.structure.ablation_effects import Effects, Sums, effects_of
from sdlms.structure.ablation_rows import Tables
from sdlms.structure.ablation_sets import choose_sets

Places = dict[tuple[int, ...], int]


class Compute(NamedTuple):
    """Where and in what type a model runs."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Ablation:
    """Ablations in the documents of one run, layer by layer; the model is loaded by the first.

    Attributes:
        site: what `check_ablatable` gave.
        task_names: in the order that `preferred_task` counts in.
        tokens: of mask 1, in whole documents, the same share for each task.
        seed: of documents, random sets and intervals.
        compute: where the model runs.
        on_halved: told the tokens of a batch when memory runs out.
    """

    site: AblatedSite
    task_names: Sequence[str]
    tokens: int
    seed: int
    compute: Compute
    on_halved: Callable[[int], None]

    def layer(self, layer: int, units: Mapping[str, NDArray[Any]]) -> Part:
        """Ablate one layer's units.

        Args:
            layer: from 0.
            units: `[unit]` each, by name, as `Specialization.units` has them.

        Returns:
            `rows` and `matrix`, those of `ablation.csv` and `ablation_matrix.csv`, as JSON has
            them.

        Raises:
            UserError: the model's weights are other than the run's, or lack its head; an
                activation is not finite; a single document does not fit the memory.
        """
        sets = choose_sets(units, len(self.task_names), (self.seed, layer))
        wanted = [one for own in sets for one in (own.specialized, *own.random) if len(one)]
        places: Places = {}
        for one in wanted:
            places.setdefault(tuple(one.tolist()), len(places))
        effects = self._effects(layer, places) if places else None
        tables = Tables(layer, self.task_names, sets, units["fired"], places, effects)
        return {"rows": list(tables.rows()), "matrix": list(tables.matrix())}

    def _effects(self, layer: int, places: Places) -> Effects:
        """Run the model once, and from the layer on once more for each set."""
        hold = self.site.holding(layer, self.compute.device)
        replacements = [hold(np.array(units, dtype=np.int64)) for units in places]
        losses = self._scoring.losses(self.site.site, layer, replacements)
        changes = losses.replaced - losses.clean
        sums = Sums(changes, losses.counts, self._tasks[losses.documents])
        return effects_of(sums, len(self.task_names), self.seed)

    @cached_property
    def _documents(self) -> list[int]:
        """The documents that are scored, ascending."""
        lengths = masked_lengths(self.site.rows)
        tasks = np.array(self.site.rows.document_tasks)
        budget = self.tokens // len(self.task_names)
        chosen: list[int] = []
        for name in self.task_names:
            own = np.flatnonzero(tasks == name)
            chosen += own[documents_within(lengths[own], budget, self.seed)].tolist()
        return sorted(chosen)

    @cached_property
    def _tasks(self) -> NDArray[np.int64]:
        """`[document]` task of each document that is scored."""
        names = {name: task for task, name in enumerate(self.task_names)}
        tasks = self.site.rows.document_tasks
        return np.array([names[tasks[d]] for d in self._documents], dtype=np.int64)

    @cached_property
    def _scoring(self) -> Scoring:
        """The model, and the documents that it predicts."""
        device, dtype = self.compute
        with or_without_ablation():
            model = load_recorded_causal_model(self.site.model, dtype, device)
        rows = self.site.rows.subset(self._documents)
        return Scoring(model, rows, DEFAULT_BUDGET[device.type], self.on_halved)
