"""What gating does to specialized neurons, and what is lost when they may never be kept.

An si-modularity run says which neurons are specialized for which task. Of each task it is counted
how often a rule keeps them on the task's tokens and on others; then they are set to zero before the
rule chooses, so that it takes other neurons, and losses are compared with those of the same rule
that may keep them. Random neurons that are kept about as often on the task's tokens stand beside.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.dynamic.kept_neurons import Kept, count_kept, masked
from sdlms.dynamic.losses import DocumentLosses, document_losses, losses_of_windows
from sdlms.dynamic.quality import Gate
from sdlms.dynamic.same_model import check_same_model
from sdlms.dynamic.specialist_sets import (
    LayerUnits,
    Neurons,
    random_like,
    read_units,
    specialists_of,
)
from sdlms.dynamic.windows import Windows
from sdlms.errors import UserError
from sdlms.models.architectures import Site
from sdlms.models.gated import gated
from sdlms.models.replacing import Replace, replacing
from sdlms.runs.parts import Part
from sdlms.runs.reading import Run
from sdlms.runs.verifying import intact
from sdlms.storage.tables import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Dropped = Mapping[int, Neurons]  # layer -> neurons that may not be kept there

SITE: Site = "mlp_act"
UNITS = "units.csv"
RANDOM_SETS = 5  # beside the specialists of each task; each costs as many forwards as these


@dataclass(frozen=True, eq=False)
class Specialized:
    """The specialized neurons of a run.

    Attributes:
        run: its name.
        task_names: of the run, in its order.
        sets: layer -> the neurons of each task, ascending.
        others: layer -> scored neurons that are specialized for no task.
    """

    run: str
    task_names: tuple[str, ...]
    sets: dict[int, list[Neurons]]
    others: dict[int, Neurons]


def check_neurons(run: Run, record: Mapping[str, Any]) -> None:
    """Make sure that a run is of the neurons of the model that is gated.

    Args:
        run: complete, of the stage si-modularity.
        record: of the model, as `sdlms.models.recorded` makes it.

    Raises:
        UserError: it is of latents, another site, a control, or another model.
    """
    resolved = run.start["resolved"]
    if resolved["site"] != SITE:
        what = "latents" if resolved["kind"] == "latent" else str(resolved["site"])
        raise UserError(
            f"--si: {run.name} is of {what}; rules keep neurons. Name a run of {SITE}: "
            f"sdlms capture --site {SITE}, then sdlms si-modularity"
        )
    if (control := resolved["control"]) != "none":
        raise UserError(
            f"--si: {run.name} is of a control ({control}), whose units say nothing of the "
            "model. Name a run of a capture without --control."
        )
    check_same_model(run, record, "--si")


def blocks_of(run: Run) -> dict[int, NDArray[np.int64]]:
    """The communities of a run, by which the rules `blocks` and `blocks-random` choose.

    These rules gate the layers of the run, and no others.

    Args:
        run: what `check_neurons` has passed.

    Returns:
        layer -> `[neuron]` community, -1 for those in none.

    Raises:
        UserError: its table is damaged or gone, or it made no graphs.
    """
    if not run.start["config"]["graph"]:
        raise UserError(
            f"--si: {run.name} was made with --no-graph and has no communities. Name one with "
            "graphs: sdlms si-modularity"
        )
    return {layer: units.community for layer, units in _units_of(run).items()}


def specialized_of(run: Run, evaluated: Sequence[str]) -> Specialized:
    """The specialized neurons of a run.

    Args:
        run: what `check_neurons` has passed.
        evaluated: tasks on which the gated model is evaluated.

    Raises:
        UserError: its table is damaged or gone, one of its tasks is not evaluated, or no neuron is
            specialized.
    """
    names = tuple(run.start["resolved"]["tasks"])
    if absent := [name for name in names if name not in evaluated]:
        raise UserError(
            f"--si: {run.name} has units for the task {absent[0]}, which is not evaluated; these "
            f"are: {', '.join(evaluated)}. Evaluate all of its tasks by --tasks, or leave out --si."
        )
    sets, others = {}, {}
    for layer, units in _units_of(run).items():
        sets[layer] = specialists_of(units, len(names))
        rest = units.scored.copy()
        rest[np.concatenate(sets[layer])] = False
        others[layer] = np.flatnonzero(rest)
    if not any(len(own) for layer in sets.values() for own in layer):
        raise UserError(f"--si: {run.name} has no specialized neuron (q < 0.05). Leave out --si.")
    return Specialized(run.name, names, sets, others)


def _units_of(run: Run) -> dict[int, LayerUnits]:
    """`units.csv`, layer by layer."""
    path = intact(run, UNITS)
    tasks = {name: number for number, name in enumerate(run.start["resolved"]["tasks"])}
    by_layer: dict[int, list[dict[str, str]]] = {}
    try:
        for row in read_table(path):
            by_layer.setdefault(int(row["layer"]), []).append(row)
        return {layer: read_units(rows, tasks) for layer, rows in sorted(by_layer.items())}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}): another version of sdlms made it. Make it anew: "
            "sdlms si-modularity"
        ) from None


@dataclass(frozen=True, eq=False)
class Specialists:
    """One model, one run's specialists, and the text on which both are measured.

    A rule and a kept share cost (2 + tasks x 6) forwards over the windows.

    Attributes:
        model: a causal model in evaluation mode.
        specialized: whose layers the model has.
        windows: of text; its tasks hold those of the run. Fewer windows suffice than for quality.
        seed: of random neurons.
        budget: tokens in a batch; halved when memory runs out.
        on_halved: told the new budget, each time.
    """

    model: "PreTrainedModel"
    specialized: Specialized
    windows: Windows
    seed: int
    budget: int
    on_halved: Callable[[int], None]

    def measure(self, gate: Gate) -> Part:
        """Measure one rule at one kept share.

        Rules that choose by something else than a token's neurons (pre-abs, random, static) leave
        the place of a dropped one empty; so does `input`, which has no number to fill up. Under
        `sequence` dropped neurons are gone from the prompt too.

        Args:
            gate: the rule, what it keeps, and how the model's layers are gated.

        Returns:
            What `specialist_rows.rows_of` reads, as JSON has it.

        Raises:
            UserError: a single window does not fit the memory; or as `gated`.
        """
        sets = self.specialized.sets
        around = self.windows, sets, self.budget, self.on_halved
        kept = count_kept(self.model, gate, *around)
        free = self._losses(gate, {})
        tasks = {
            name: self._task(gate, number, kept, free)
            for number, name in enumerate(self.specialized.task_names)
        }
        return {
            "rule": gate.rule,
            "keep": gate.keep,
            "task_names": list(self.windows.task_names),
            "tokens": free.counts.tolist(),
            "document_tasks": free.task.tolist(),
            "kept": kept.every.tolist(),
            "n_neurons": sum(each.shape[1] for each in kept.by_task.values()),
            "tasks": tasks,
        }

    def _task(self, gate: Gate, number: int, kept: Kept, free: DocumentLosses) -> Part:
        """One task: its specialists, and random neurons like them."""
        sets = self.specialized.sets
        own = {layer: sets[layer][number] for layer in sets}
        n_neurons = sum(map(len, own.values()))
        random = self._random(own, number, kept) if n_neurons else []
        return {
            "n_neurons": n_neurons,
            "kept": kept.members[:, number].tolist(),
            "changes": self._changes(gate, own, free) if n_neurons else None,
            "random_kept": [self._kept_in_task(each, number, kept) for each in random],
            "random_changes": [self._changes(gate, each, free) for each in random],
        }

    def _random(self, own: Dropped, number: int, kept: Kept) -> list[Dropped]:
        """Sets of other neurons, layer by layer as many; empty where a layer has too few."""
        found = []
        for draw in range(RANDOM_SETS):
            generator = np.random.default_rng([self.seed, number, draw])
            one = {
                layer: random_like(
                    neurons,
                    self.specialized.others[layer],
                    kept.by_task[layer][self._evaluated(number)],
                    generator,
                )
                for layer, neurons in own.items()
            }
            found.append({layer: each for layer, each in one.items() if each is not None})
        return [one for one in found if len(one) == len(own)]

    def _evaluated(self, number: int) -> int:
        """A task of the run, as the windows number it."""
        return self.windows.task_names.index(self.specialized.task_names[number])

    def _kept_in_task(self, neurons: Dropped, number: int, kept: Kept) -> float:
        """Share of a task's tokens on which neurons are kept, mean over these."""
        task = self._evaluated(number)
        n_tokens = int(self.windows.scored[self.windows.task == task].sum())
        counts = np.concatenate([kept.by_task[n][task][own] for n, own in neurons.items()])
        return float(counts.mean()) / n_tokens

    def _changes(self, gate: Gate, dropped: Dropped, free: DocumentLosses) -> list[float]:
        """Of each document, the summed loss without some neurons less that with them, in nats."""
        found: list[float] = (self._losses(gate, dropped).sums - free.sums).tolist()
        return found

    def _losses(self, gate: Gate, dropped: Dropped) -> DocumentLosses:
        """Losses where some neurons may never be kept.

        The rule begins anew each time, so that `random` keeps the same sets.
        """
        device = self.model.device
        how = masked(gate, self.windows)
        with ExitStack() as open_:
            open_.enter_context(
                gated(self.model, gate.rule, gate.keep, learned=gate.learned, how=how)
            )
            for layer, neurons in dropped.items():
                without = silencing(torch.from_numpy(neurons).to(device))
                open_.enter_context(replacing(self.model, layer, SITE, without))
            losses = losses_of_windows(self.model, self.windows, self.budget, self.on_halved)
        return document_losses(losses, self.windows)


def silencing(neurons: Tensor) -> Replace:
    """A replacement that sets some neurons, `[neuron]` int64, to zero on every token."""
    return lambda acts: acts.index_fill(-1, neurons.to(acts.device), 0)
