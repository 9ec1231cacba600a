"""What a rule costs: the losses of a model of whose MLPs only a part is kept.

Quality is measured with masks: whole windows run at once, and the same neurons are kept as when the
work is really skipped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from sdlms.dynamic.losses import document_losses, losses_of_states, losses_of_windows
from sdlms.dynamic.windows import Windows, by_task
from sdlms.models.gated import How, Learned, gated
from sdlms.models.replacing import run_once
from sdlms.runs.parts import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Gate(NamedTuple):
    """How a model is gated.

    Attributes:
        rule: its name.
        keep: nominal kept fraction in (0, 1]; 1 is the model as it is.
        learned: what rules know beyond the weights.
        how: layers, seed and, where keep 1 is forced, the backend; the rest is decided here.
    """

    rule: str
    keep: float
    learned: Learned | None = None
    how: How = How()


def measure_quality(
    model: "PreTrainedModel",
    gate: Gate,
    windows: Windows,
    budget: int,
    on_halved: Callable[[int], None],
) -> Part:
    """Losses of a gated model, document by document.

    Args:
        model: a causal model in evaluation mode.
        gate: keep 1 is the dense model itself, unless it is forced: then every token goes through
            the sparse product of the backend.
        windows: what is predicted; the rule `sequence` takes their context as prompt.
        budget: tokens in a batch.
        on_halved: told the new budget each time memory runs out.

    Returns:
        `DocumentLosses.record`; `kept_fraction` and, of each task, `kept_by_task`: means over
        gated layers and all tokens of the windows that the rule gates.

    Raises:
        UserError: the rule or the model refuses, or a single window does not fit the memory.
    """
    kept, losses = [], []
    with gated(
        model, gate.rule, gate.keep, learned=gate.learned, how=_measuring(gate, windows)
    ) as gates:
        for own in by_task(windows):
            gates.reset()
            losses.append(losses_of_windows(model, own, budget, on_halved))
            kept.append(gates.kept_fraction())
    n_windows = [len(each) for each in losses]
    return {
        **document_losses(np.concatenate(losses), windows).record(),
        "kept_fraction": float(np.average(kept, weights=n_windows)),
        "kept_by_task": kept,
    }


def measure_layer(
    model: "PreTrainedModel",
    gate: Gate,
    keeps: Sequence[float],
    windows: Windows,
    budget: int,
    on_halved: Callable[[int], None],
) -> list[Part]:
    """What `measure_quality` gives for one gated layer at several kept fractions.

    The blocks below the layer run once for all of them, which changes no bit of the result.

    Args:
        model: a causal model in evaluation mode.
        gate: `how` names one layer; `keep` is not read.
        keeps: kept fractions below 1.
        windows: what is predicted.
        budget: tokens in a batch.
        on_halved: told the new budget each time memory runs out.

    Returns:
        One part for each of `keeps`.

    Raises:
        UserError: as `measure_quality`.
        ValueError: there is not exactly one layer, or no fraction, or one that is 1.
    """
    layers: tuple[int, ...] = gate.how.layers or ()
    if len(layers) != 1 or not keeps or max(keeps) >= 1:
        raise ValueError(f"need one layer and keeps below 1, got {layers} and {list(keeps)}")
    layer = layers[0]
    kept: list[list[float]] = []
    n_tokens: list[int] = []
    with gated(
        model, gate.rule, keeps[0], learned=gate.learned, how=_measuring(gate, windows)
    ) as gates:

        def residuals(input_ids: Tensor) -> Iterator[Tensor]:
            with gates.paused():
                rerun = run_once(model, layer, input_ids)
            fractions = []
            for keep in keeps:
                gates.keep = keep
                gates.reset()
                yield rerun.again()
                fractions.append(gates.kept_fraction())
            kept.append(fractions)  # only here: a batch that failed is run again
            n_tokens.append(input_ids.numel())

        states = losses_of_states(model, windows, residuals, budget, on_halved)
    means = np.average(kept, axis=0, weights=n_tokens).tolist()
    return [
        {**document_losses(losses, windows).record(), "kept_fraction": mean}
        for losses, mean in zip(states, means, strict=True)
    ]


def _measuring(gate: Gate, windows: Windows) -> How:
    """Masked, save where the kernel's own error is asked for."""
    forced = gate.how.force_at_one and gate.keep == 1
    return replace(
        gate.how,
        execution="sparse" if forced else "masked",
        prompt_tokens=windows.n_prompt,
    )
