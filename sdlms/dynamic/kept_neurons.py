"""How often a rule keeps each neuron: counted from the masks of its masked execution."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.dynamic.quality import Gate
from sdlms.dynamic.windows import Windows
from sdlms.models.architectures import n_units
from sdlms.models.batching import run_batches
from sdlms.models.gated import How, gated
from sdlms.models.spreading import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK_NUMBERS = 2**24  # of a mask, as float32, at a time
Counts = NDArray[np.int64]
OnMask = Callable[[int, Tensor], None]
Members = Mapping[int, Sequence[Counts]]


@dataclass
class Kept:
    """Numbers of kept neurons, over tokens that are scored.

    Attributes:
        by_task: of each layer, `[task, neuron]` int64: tokens of a task on which it is kept.
        members: `[document, set]` int64, kept neurons of each set, over tokens and layers.
        every: `[document]` int64, the same of all neurons.
    """

    by_task: dict[int, Counts]
    members: Counts
    every: Counts

    def add(self, other: "Kept") -> None:
        """Take in what was counted on other tokens."""
        for layer, counts in other.by_task.items():
            self.by_task[layer] += counts
        self.members += other.members
        self.every += other.every


def masked(gate: Gate, windows: Windows, on_mask: OnMask | None = None) -> How:
    """How a gate's quality is measured: by masks, keep 1 being the model as it is.

    Args:
        gate: which rule.
        windows: the rule `sequence` takes their context as prompt.
        on_mask: told the layer and its mask, `[window, token, neuron]` bool, of every forward.
    """
    return replace(
        gate.how,
        execution="masked",
        force_at_one=False,
        prompt_tokens=windows.n_prompt,
        on_mask=on_mask,
    )


def scored_rows(windows: Windows, chosen: Sequence[int]) -> tuple[NDArray[np.bool_], Counts]:
    """Which tokens of some windows are scored, as `[window, token]`, and the document of each.

    A token is scored in one window only.
    """
    scored = np.zeros((len(chosen), windows.ids.shape[1]), dtype=np.bool_)
    scored[:, windows.first :] = windows.scored[chosen]
    return scored, windows.document[chosen][windows.scored[chosen]]


def count_kept(
    model: "PreTrainedModel",
    gate: Gate,
    windows: Windows,
    members: Members,
    budget: int,
    on_halved: Callable[[int], None],
) -> Kept:
    """Run the gated model over windows, and count what it keeps.

    Args:
        model: a causal model in evaluation mode.
        gate: which rule, and how much it keeps.
        windows: of text; scored tokens count.
        members: layer -> sets of neurons, as many in each; these layers are counted. One that is
            not gated keeps every neuron.
        budget: tokens in a batch; halved when memory runs out.
        on_halved: told the new budget, each time.

    Raises:
        UserError: a single window does not fit the memory; or as `gated`.
    """
    counter = _Counter(windows, members, _widths(model, members))
    how = masked(gate, windows, counter.see)
    lengths = np.full(len(windows.ids), windows.ids.shape[1], dtype=np.int64)
    total = counter.nothing()

    def forward(chosen: list[int]) -> Kept:
        ids = torch.from_numpy(np.ascontiguousarray(windows.ids[chosen])).to(input_device(model))
        counter.begin(chosen)
        with torch.no_grad():
            model.base_model(input_ids=ids, use_cache=False)
        return counter.finish()

    with gated(model, gate.rule, gate.keep, learned=gate.learned, how=how):
        order = range(len(windows.ids))
        for _, found, _ in run_batches(order, lengths, budget, forward, on_halved):
            total.add(found)
    return total


def _widths(model: "PreTrainedModel", layers: Members) -> dict[int, int]:
    """Neurons of each layer."""
    return dict.fromkeys(layers, n_units(model.config, "mlp_act"))


class _Counter:
    """Counts of one batch of windows."""

    def __init__(self, windows: Windows, members: Members, widths: Mapping[int, int]) -> None:
        self._windows, self._widths = windows, widths
        self._matrices = {
            layer: torch.from_numpy(_memberships(sets, widths[layer]))
            for layer, sets in members.items()
        }

    def nothing(self) -> Kept:
        """No token yet."""
        n_documents, n_tasks = len(self._windows.document_ids), len(self._windows.task_names)
        n_sets = next(iter(self._matrices.values())).shape[1]
        by_task = {n: np.zeros((n_tasks, width), np.int64) for n, width in self._widths.items()}
        sets = np.zeros((n_documents, n_sets), np.int64)
        return Kept(by_task, sets, np.zeros(n_documents, np.int64))

    def begin(self, chosen: Sequence[int]) -> None:
        """Forget what a batch that failed has left."""
        scored, self._documents = scored_rows(self._windows, chosen)
        self._scored = torch.from_numpy(scored)
        self._tasks = np.repeat(self._windows.task[chosen], scored.sum(axis=1))
        self._kept, self._seen = self.nothing(), set[int]()

    def see(self, layer: int, mask: Tensor) -> None:
        """Count one layer's mask, `[window, token, neuron]`."""
        if layer in self._widths:
            self._seen.add(layer)
            self._count(layer, mask[self._scored.to(mask.device)])

    def finish(self) -> Kept:
        """What was counted; a layer without a mask keeps everything."""
        for layer in self._widths.keys() - self._seen:
            everything = torch.ones(1, self._widths[layer], dtype=torch.bool)
            self._count(layer, everything.expand(len(self._documents), -1))
        return self._kept

    def _count(self, layer: int, mask: Tensor) -> None:
        """Count the rows `[token, neuron]` of one layer."""
        n_tasks = len(self._windows.task_names)
        at_once = max(1, BLOCK_NUMBERS // mask.shape[1])
        matrix = self._matrices[layer].to(mask.device)
        for first in range(0, len(mask), at_once):
            rows = mask[first : first + at_once].float()  # whole numbers below 2**24: exact
            here = slice(first, first + len(rows))
            tasks, documents = self._tasks[here], self._documents[here]
            is_task = torch.from_numpy(tasks == np.arange(n_tasks)[:, None]).to(rows)
            self._kept.by_task[layer] += _whole(is_task @ rows)
            np.add.at(self._kept.members, documents, _whole(rows @ matrix))
            np.add.at(self._kept.every, documents, _whole(rows.sum(dim=1)))


def _memberships(sets: Sequence[Counts], width: int) -> NDArray[np.float32]:
    """`[neuron, set]`, 1 where a neuron is in a set."""
    found = np.zeros((width, len(sets)), np.float32)
    for number, neurons in enumerate(sets):
        found[neurons, number] = 1
    return found


def _whole(numbers: Tensor) -> Counts:
    found: Counts = numbers.cpu().numpy().astype(np.int64)
    return found
