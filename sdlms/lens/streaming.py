"""Run a model over documents, once, and write what its lenses say of every token.

Work is cut into blocks of documents. After each block the data are synced, then a checkpoint is
written; a run that is killed repeats the blocks after its last checkpoint, with the same bytes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.lens.measuring import Lens
from sdlms.lens.residuals import Residuals, residuals
from sdlms.lens.rows import LensRows, decided_at
from sdlms.lens.states import State
from sdlms.lens.tuned import Tuned
from sdlms.models.batching import longest_first, run_batches, token_blocks
from sdlms.models.device import return_freed_memory
from sdlms.models.forward import Checkpointer, padded_inputs
from sdlms.progress import LOGGER, Progress
from sdlms.storage.files import write_atomically
from sdlms.storage.flat import FlatWriter
from sdlms.storage.lens_file import DECIDED_AT, PER_STATE, PER_TOP, lens_dataset
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK_TOKENS = 8192  # or the budget, where it is more
CHECKPOINT = "lens.json"
Found = dict[str, dict[str, NDArray[np.generic]]]  # by lens, by data set


@dataclass
class Measuring:
    """One model and the lenses through which it is looked at.

    Attributes:
        model: a causal model in evaluation mode.
        lens: what measures states.
        lenses: by name; the translators that go before it, or none.
        states: in the order of the forward pass, the final one last.
        pins: token ids that are measured everywhere.
        budget: tokens in a batch, padding included; halved when memory runs out.
        scratch: folder for checkpoints.
        on_halved: told the new budget each time it is halved.
    """

    model: "PreTrainedModel"
    lens: Lens
    lenses: Mapping[str, Tuned | None]
    states: Sequence[State]
    pins: Sequence[int]
    budget: int
    scratch: Path
    on_halved: Callable[[int], None]

    def fill(self, path: Path, rows: Rows) -> None:
        """Fill `lens.h5`, from the last checkpoint on.

        Args:
            path: the file, allocated.
            rows: tokens and documents.

        Raises:
            UserError: a document does not fit the memory, a state is not finite, or the disk is
                full.
        """
        lengths = rows.lengths
        checkpoint = self.scratch / CHECKPOINT
        n_done, block_tokens = 0, max(BLOCK_TOKENS, self.budget)  # no batch crosses a block
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
            n_done, block_tokens = state["blocks"], state["block_tokens"]
        blocks = token_blocks(longest_first(lengths), lengths, block_tokens)
        done = sum(int(lengths[block].sum()) for block in blocks[:n_done])
        progress = Progress("lens", rows.n_tokens, "tokens", done=done)
        with FlatWriter(path) as writer, residuals(self.model, self.states) as stream:
            save = partial(_checkpoint, writer, checkpoint, block_tokens)
            forward = partial(self._measure, stream, rows)
            with Checkpointer(save) as checkpointer, progress:
                for number, block in enumerate(blocks[n_done:], start=n_done + 1):
                    batches = run_batches(block, lengths, self.budget, forward, self._halved)
                    for documents, found, budget in batches:
                        self.budget = budget
                        _write(writer, rows, documents, found)
                        progress.advance(int(lengths[documents].sum()))
                    checkpointer.reached(number)
                    return_freed_memory()

    def _measure(self, stream: Residuals, rows: Rows, documents: list[int]) -> list[Found]:
        """One forward; then document by document, so that each is measured as it would be alone."""
        ids, _ = padded_inputs(rows, documents, self.model.device, causal=True)
        resid = stream.run(ids)
        return [
            self._measure_document(resid[place], rows, document)
            for place, document in enumerate(documents)
        ]

    def _measure_document(self, resid: Tensor, rows: Rows, document: int) -> Found:
        """What each lens says of one document, `[token, ...]`."""
        ids = torch.from_numpy(rows.ids[rows.offsets[document] : rows.offsets[document + 1]])
        next_ids = torch.cat([ids[1:].long(), torch.tensor([-1])])
        found = {}
        for name, tuned in self.lenses.items():
            states = resid[: len(ids)]
            read = states if tuned is None else tuned.translate(states, self.states)
            measured = self.lens.measure(read, next_ids, self.pins)
            self._check_finite(measured, rows.document_ids[document])
            found[name] = _arrays(measured, self.states)
        return found

    def _check_finite(self, measured: LensRows, document: str) -> None:
        """Refuse numbers that overflowed."""
        bad = ~np.isfinite(measured.entropy_nats)
        if bad.any():
            token, state = np.argwhere(bad)[0]
            raise UserError(
                f"document {document}, token {token}: the logits of {self.states[state].name} are "
                "not finite. Use --dtype float32 or bfloat16."
            )

    def _halved(self, budget: int) -> None:
        """Say so: in the log and, through the caller, in the run's record."""
        LOGGER.warning("out of memory: batches are halved to %d tokens", budget)
        self.on_halved(budget)


def _arrays(measured: LensRows, states: Sequence[State]) -> dict[str, NDArray[np.generic]]:
    """The data sets of one lens."""
    found: dict[str, NDArray[np.generic]] = {
        name: getattr(measured, name) for name in (*PER_TOP, *PER_STATE)
    }
    if measured.pin_rank.shape[-1]:
        found["target_log_probability"] = measured.pin_log_probability
        found["target_rank"] = measured.pin_rank
    return {**found, DECIDED_AT: decided_at(measured.top_ids, states)}


def _write(writer: FlatWriter, rows: Rows, documents: list[int], found: list[Found]) -> None:
    """Put each document's rows at their own place."""
    for document, lenses in zip(documents, found, strict=True):
        for lens, arrays in lenses.items():
            for name, values in arrays.items():
                writer.write(lens_dataset(lens, name), int(rows.offsets[document]), values)


def _checkpoint(writer: FlatWriter, path: Path, block_tokens: int, n_blocks: int) -> None:
    """Make sure the data are on the disk, then say how far they go."""
    writer.sync()
    state = {"blocks": n_blocks, "block_tokens": block_tokens}
    write_atomically(path, json.dumps(state).encode())
