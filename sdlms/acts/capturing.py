"""Run a model over documents, once, and write what it records: activations, or statistics of them.

Work is cut into blocks of documents. After each block the data are synced, then a checkpoint is
written; a run that is killed repeats the blocks after its last checkpoint, with the same bytes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sdlms.acts.statistics import (
    SCAN_TOKENS,
    TORCH_DTYPES,
    DocumentTables,
    Rule,
    check_finite,
    is_finite,
)
from sdlms.models.architectures import SITES, Site, architecture_of
from sdlms.models.batching import longest_first, run_batches, token_blocks
from sdlms.models.calibration import DeviceMemory, measured_budget
from sdlms.models.device import allocated_bytes, return_freed_memory
from sdlms.models.forward import Checkpointer, Recorded, Worker, forward_batch
from sdlms.models.recording import Recording, recording
from sdlms.models.spreading import cuda_devices, input_device, read_memory
from sdlms.progress import LOGGER, Progress
from sdlms.storage.activations import Header, Key, create_activations, dataset_name
from sdlms.storage.counts import read_counts
from sdlms.storage.files import write_atomically, write_errors
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows, document_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK_TOKENS = 8192  # or the budget, where it is more
PROBE_TOKENS = 2048  # in the batch that measures how much memory a token takes
TRIM_BLOCKS = 4  # returning memory after every block costs 2-3 % of the forward
Consume = Callable[[list[int], Recorded], None]
Forward = Callable[[list[int]], Recorded]


@dataclass
class Capturing:
    """One model and what is recorded of it.

    Attributes:
        model: a base model in evaluation mode, on its device or spread over several.
        header: sites, layers and stored types.
        threads: CPU threads that statistics may use.
        budget: tokens in a batch, padding included; halved when memory runs out.
        scratch: folder for checkpoints.
        on_halved: told the new budget each time it is halved.
    """

    model: "PreTrainedModel"
    header: Header
    threads: int
    budget: int
    scratch: Path
    on_halved: Callable[[int], None]

    def calibrate(
        self,
        rows: Rows,
        free_memory: str,
        read: "Callable[[PreTrainedModel], Sequence[DeviceMemory]]" = read_memory,
    ) -> None:
        """Lower the budget, if need be, so that each device of the model keeps some memory free.

        Args:
            rows: the longest documents are run, and what they give is dropped.
            free_memory: as `--free-memory` has it.
            read: reads the memory of each device of the model, and starts its peak anew.

        Raises:
            UserError: a single document does not fit, or `free_memory` is more than there is.
        """
        lengths = rows.lengths
        longest = longest_first(lengths)

        def probe() -> int:
            batches = run_batches(longest, lengths, PROBE_TOKENS, forward, lambda _: None)
            documents, _, _ = next(batches)
            return len(documents) * int(lengths[documents].max())

        with recording(self.model, self.header.layers, self._sites) as recorded:
            forward = self._batch_forward(recorded, rows)
            self.budget = measured_budget(probe, lambda: read(self.model), free_memory, self.budget)
        LOGGER.info(f"--free-memory {free_memory} allows batches of {self.budget} tokens")

    def save(self, path: Path, rows: Rows, label: str) -> None:
        """Write `activations.h5`.

        Raises:
            UserError: a value overflows the stored type, or the disk is full.
        """
        if not path.exists():
            with write_errors(path):
                create_activations(path, self.header, rows)
        with FlatWriter(path) as writer:
            self._forward(label, rows, writer, lambda *batch: _store(writer, rows, *batch))

    def measure(self, writer: FlatWriter, rows: Rows, rules: dict[Key, Rule]) -> None:
        """Fill the per-document tables of `counts.h5` while the model runs; store nothing else.

        Args:
            writer: of `counts.h5`, which holds the thresholds.
            rows: tokens and documents.
            rules: how each site and layer is measured.

        Raises:
            UserError: a value is not finite in the stored type, or the disk is full.
        """
        thresholds = {
            key: torch.from_numpy(read_counts(writer.path, f"{dataset_name(key)}/thresholds"))
            for key in rules
        }
        tables = DocumentTables(writer, rows)

        def consume(documents: list[int], recorded: Recorded) -> None:
            for key, batch in recorded.items():
                pieces = _real_rows(batch, key, rows, documents)
                offsets = np.cumsum([0, *(len(piece) for piece in pieces)])
                for first, last in document_blocks(offsets, SCAN_TOKENS):
                    acts = torch.cat(pieces[first:last]).float()
                    tables.add(key, rules[key], documents[first:last], acts, thresholds[key])

        self._forward("statistics", rows, writer, consume)

    def _forward(self, label: str, rows: Rows, writer: FlatWriter, consume: Consume) -> None:
        """The forward over all blocks that no checkpoint covers."""
        lengths = rows.lengths
        checkpoint = self.scratch / f"{label.replace(' ', '_')}.json"
        n_done, block_tokens = 0, max(BLOCK_TOKENS, self.budget)  # no batch crosses a block
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
            n_done, block_tokens = state["blocks"], state["block_tokens"]
        blocks = token_blocks(longest_first(lengths), lengths, block_tokens)
        done = sum(int(lengths[block].sum()) for block in blocks[:n_done])
        cuda = cuda_devices(self.model)
        gpu = (lambda: sum(allocated_bytes(device) for device in cuda)) if cuda else None
        progress = Progress(label, rows.n_tokens, "tokens", done=done, gpu_memory=gpu)
        record = recording(self.model, self.header.layers, self._sites)
        checkpointer = Checkpointer(partial(_checkpoint, writer, checkpoint, block_tokens))
        with record as recorded, checkpointer, Worker() as worker, progress:
            forward = self._batch_forward(recorded, rows)
            for number, block in enumerate(blocks[n_done:], start=n_done + 1):
                batches = run_batches(block, lengths, self.budget, forward, self._halved)
                for documents, found, budget in batches:
                    self.budget = budget
                    worker.submit(consume, documents, found)
                    del found
                    progress.advance(int(lengths[documents].sum()))
                worker.submit(checkpointer.reached, number)
                if number % TRIM_BLOCKS == 0:
                    return_freed_memory()
            worker.drain()

    def _batch_forward(self, recorded: Recording, rows: Rows) -> Forward:
        """What runs one batch of documents."""
        store = {site: TORCH_DTYPES[dtype] for site, dtype in self.header.store_dtype.items()}
        causal = architecture_of(self.model.config.model_type).causal
        return partial(forward_batch, recorded, rows, store, input_device(self.model), causal)

    @property
    def _sites(self) -> list[Site]:
        return [site for site in SITES if site in self.header.sites]

    def _halved(self, budget: int) -> None:
        """Say so: in the log and, through the caller, in the run's record."""
        LOGGER.warning("out of memory: batches are halved to %d tokens", budget)
        self.on_halved(budget)


def _checkpoint(writer: FlatWriter, path: Path, block_tokens: int, n_blocks: int) -> None:
    """Make sure the data are on the disk, then say how far they go."""
    writer.sync()
    state = {"blocks": n_blocks, "block_tokens": block_tokens}
    write_atomically(path, json.dumps(state).encode())


def _real_rows(batch: Tensor, key: Key, rows: Rows, documents: list[int]) -> list[Tensor]:
    """Each document's own rows of a padded `[batch, token, unit]`, all of them finite."""
    lengths = rows.lengths[documents].tolist()
    pieces = [batch[i, :length] for i, length in enumerate(lengths)]
    if not is_finite(batch):  # perhaps only in the padding
        for document, piece in zip(documents, pieces, strict=True):
            check_finite(piece, key, rows.document_ids[document])
    return pieces


def _store(writer: FlatWriter, rows: Rows, documents: list[int], recorded: Recorded) -> None:
    """Write one batch, each document at its own place."""
    for key, batch in recorded.items():
        pieces = _real_rows(batch, key, rows, documents)
        for document, piece in zip(documents, pieces, strict=True):
            bits = piece.view(torch.uint16) if piece.dtype == torch.bfloat16 else piece
            stored = np.ascontiguousarray(bits.numpy())
            writer.write(dataset_name(key), int(rows.offsets[document]), stored)
