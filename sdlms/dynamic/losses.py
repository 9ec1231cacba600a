"""How badly a model predicts windows of text: the loss of each token, and its sums by document."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.dynamic.windows import Windows
from sdlms.models.architectures import n_layers
from sdlms.models.batching import run_batches
from sdlms.models.replacing import run_once
from sdlms.models.scoring import losses_of
from sdlms.models.spreading import input_device
from sdlms.runs.parts import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Losses = NDArray[np.float64]
Residuals = Callable[[Tensor], Iterator[Tensor]]
"""From `[batch, token]` ids to residuals after the last block, one for each state of the model."""


class DocumentLosses(NamedTuple):
    """Sums of losses over each document's scored tokens.

    Attributes:
        ids: `[document]`, so that a document that several seeds read is known.
        task: `[document]` int64 from 0.
        counts: `[document]` int64 > 0, scored tokens.
        sums: `[document]` float64, in nats.
    """

    ids: list[str]
    task: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: Losses

    def record(self) -> Part:
        """The same as JSON has it."""
        return {
            "ids": self.ids,
            "task": self.task.tolist(),
            "counts": self.counts.tolist(),
            "sums": self.sums.tolist(),
        }


def losses_of_record(record: Mapping[str, Any]) -> DocumentLosses:
    """What `DocumentLosses.record` has written, bit by bit."""
    return DocumentLosses(
        ids=list(record["ids"]),
        task=np.array(record["task"], dtype=np.int64),
        counts=np.array(record["counts"], dtype=np.int64),
        sums=np.array(record["sums"], dtype=np.float64),
    )


def losses_of_windows(
    model: "PreTrainedModel", windows: Windows, budget: int, on_halved: Callable[[int], None]
) -> Losses:
    """The loss of each scored token, as the model is now: open contexts count.

    Args:
        model: a causal model in evaluation mode, on its device or spread over several.
        windows: what is predicted.
        budget: tokens in a batch; it halves when memory runs out.
        on_halved: told the new budget each time.

    Returns:
        `[window, token - first]` in nats; 0 where nothing is scored.

    Raises:
        UserError: a single window does not fit the memory.
    """

    def once(input_ids: Tensor) -> Iterator[Tensor]:
        yield run_once(model, n_layers(model.config) - 1, input_ids).resid

    losses: Losses = losses_of_states(model, windows, once, budget, on_halved)[0]
    return losses


def losses_of_states(
    model: "PreTrainedModel",
    windows: Windows,
    residuals: Residuals,
    budget: int,
    on_halved: Callable[[int], None],
) -> Losses:
    """The loss of each scored token in several states of a model, batch by batch.

    Args:
        model: as `losses_of_windows` takes it.
        windows: what is predicted.
        residuals: puts the model into one state after another; each of its residuals is read before
            it goes on. When memory runs out, it is called again with fewer windows.
        budget: tokens in a batch.
        on_halved: told the new budget each time.

    Returns:
        `[state, window, token - first]` in nats; 0 where nothing is scored.
    """
    n_windows, window = windows.ids.shape
    lengths = np.full(n_windows, window)
    forward = partial(_batch, model, windows, residuals)
    done = [
        found for _, found, _ in run_batches(range(n_windows), lengths, budget, forward, on_halved)
    ]
    return np.concatenate(done, axis=1)


@torch.no_grad()
def _batch(
    model: "PreTrainedModel", windows: Windows, residuals: Residuals, batch: list[int]
) -> Losses:
    """`[state, batch, token - first]` of some windows; logits exist for scored tokens only."""
    device = input_device(model)
    input_ids = torch.from_numpy(windows.ids[batch]).to(device)
    scored = torch.from_numpy(windows.scored[batch])
    targets = input_ids[:, windows.first :][scored.to(device)]
    states = []
    for resid in residuals(input_ids):
        sources = resid[:, windows.first - 1 : -1][scored.to(resid.device)]
        losses = np.zeros(scored.shape)
        losses[scored.numpy()] = losses_of(model, sources, targets).double().cpu().numpy()
        states.append(losses)
    return np.stack(states)


def document_losses(losses: Losses, windows: Windows) -> DocumentLosses:
    """Losses summed over each document, in the order of the text.

    Args:
        losses: `[window, token - first]` of these windows.
        windows: which say what is scored, and in which document.
    """
    n_documents = len(windows.document_ids)
    documents = windows.document[windows.scored]
    task = np.zeros(n_documents, dtype=np.int64)
    task[documents] = np.broadcast_to(windows.task[:, None], windows.scored.shape)[windows.scored]
    return DocumentLosses(
        ids=windows.document_ids,
        task=task,
        counts=np.bincount(documents, minlength=n_documents),
        sums=np.bincount(documents, losses[windows.scored], minlength=n_documents).astype(
            np.float64, copy=False
        ),
    )
