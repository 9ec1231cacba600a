"""Encode every token of finished activations: sparse rows go to plain files, sums are kept.

Work goes block by block of documents. Now and then the rows are synced, then a checkpoint says how
far they go; a try that is killed repeats what follows its last checkpoint, with the same bytes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import Ranges, whole
from sdlms.acts.file_source import FileSource
from sdlms.acts.sources import Positions, Wanted
from sdlms.errors import UserError
from sdlms.sae.dictionary import Dictionary
from sdlms.storage.sparse_acts import Entries, SparseAppender
from sdlms.storage.tensors import read_tensors, write_tensors

CHECKPOINT_SECONDS = 10.0
CHUNK_BYTES = 64 << 20  # of dense latents that are there at a time


@dataclass
class Tally:
    """What is known of the tokens so far; sums are over those of mask 1.

    Attributes:
        n_documents: that are done.
        n_rows: tokens that are done, of any mask.
        n_entries: active latents of these.
        n_tokens: of mask 1.
        n_active: active latents of these.
        squared_error: of the reconstruction, over tokens and units.
        sum_squares: of the activations, over tokens and units.
        sums: `[unit]` float64, of the activations.
        fired: `[latent]` bool, whether it was ever active.
    """

    sums: NDArray[np.float64]
    fired: NDArray[np.bool_]
    n_documents: int = 0
    n_rows: int = 0
    n_entries: int = 0
    n_tokens: int = 0
    n_active: int = 0
    squared_error: float = 0.0
    sum_squares: float = 0.0

    @property
    def l0(self) -> float:
        """Mean number of active latents; NaN without tokens."""
        return self.n_active / self.n_tokens if self.n_tokens else float("nan")

    @property
    def fvu_own_mean(self) -> float:
        """Fraction of variance unexplained, about the mean of these tokens; NaN without variance.

        Squared error over squared distance from the mean, both summed over tokens and units.
        """
        if not self.n_tokens:
            return float("nan")
        variance = self.sum_squares - float((self.sums**2).sum()) / self.n_tokens
        return self.squared_error / variance if variance > 0 else float("nan")


def encode_layer(
    source: FileSource,
    layer: int,
    dictionary: Dictionary,
    scratch: Path,
    advance: Callable[[int], None],
) -> Tally:
    """Append the latents of every token to plain files, from the last checkpoint on.

    Args:
        source: activations with tokens.
        layer: of these.
        dictionary: on the device to compute on.
        scratch: folder of the plain files and the checkpoint.
        advance: told the number of tokens of each block that is done.

    Raises:
        UserError: an activation or a latent is not finite, or the disk is full.
    """
    tally = read_tally(scratch, layer, dictionary)
    description = source.description
    ranges = whole(description, np.arange(tally.n_documents, description.n_documents))
    with SparseAppender(scratch, layer, tally.n_rows, tally.n_entries) as appender:
        encoder = _Encoder(source, layer, dictionary, ranges, tally, appender)
        saved = time.monotonic()

        def take(_: int, positions: Positions, found: list[Tensor]) -> None:
            nonlocal saved
            encoder.add(positions, found[0])
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _checkpoint(scratch, layer, tally, appender)
                saved = time.monotonic()
            advance(len(found[0]))

        wanted = Wanted(ranges, [layer], masked=False, together=False)
        source.scan(wanted, lambda _, acts: [acts], take)
        _checkpoint(scratch, layer, tally, appender)
    return tally


@dataclass
class _Encoder:
    """One layer on its way."""

    source: FileSource
    layer: int
    dictionary: Dictionary
    ranges: Ranges
    tally: Tally
    appender: SparseAppender

    @torch.no_grad()
    def add(self, positions: Positions, rows: Tensor) -> None:
        """Encode the rows of some documents, `[row, unit]`."""
        if not bool(rows.isfinite().all()):
            document = self._document(positions, int((~rows.isfinite()).any(1).nonzero()[0]))
            raise UserError(
                f"{document}: an activation is NaN or infinite. Capture anew (--store-dtype "
                "float32, --dtype float32), or leave the document out."
            )
        mask = torch.from_numpy(self.source.mask(self.ranges.at(positions)))
        n_rows = max(1, CHUNK_BYTES // (4 * self.dictionary.width))
        for first in range(0, len(rows), n_rows):
            acts = rows[first : first + n_rows].float()
            on_device = acts.to(self.dictionary.decoder.device)
            latents = self.dictionary.encode(on_device)
            entries = entries_of(latents)
            if len(wrong := np.flatnonzero(~np.isfinite(entries.values))):
                row = np.searchsorted(np.cumsum(entries.counts), wrong[0], side="right")
                document = self._document(positions, first + int(row))
                raise UserError(
                    f"{document}: a latent is not finite, though the activations are: this SAE "
                    "cannot be used on them. Leave its layer out by --layers, or name another "
                    "--member."
                )
            self.appender.append(entries)
            decoded = self.dictionary.decode(latents, on_device)
            errors = (decoded - on_device).square().sum(dim=1).cpu()
            self._count(acts, errors, entries, mask[first : first + n_rows])
        self.tally.n_documents += len(positions)

    def _count(self, acts: Tensor, errors: Tensor, entries: Entries, mask: Tensor) -> None:
        """Add up rows of mask 1; `errors` are `[row]`, `acts` `[row, unit]`."""
        tally, kept = self.tally, acts[mask].double()
        tally.n_rows, tally.n_entries = self.appender.n_rows, self.appender.n_entries
        tally.n_tokens += len(kept)
        tally.n_active += int(entries.counts[mask.numpy()].sum())
        tally.squared_error += float(errors[mask].double().sum())
        tally.sum_squares += float(kept.square().sum())
        tally.sums += kept.sum(dim=0).numpy()
        tally.fired[entries.indices[np.repeat(mask.numpy(), entries.counts)]] = True

    def _document(self, positions: Positions, row: int) -> str:
        """Layer and document of a row of some documents."""
        offsets = self.ranges.at(positions).offsets
        position = positions[np.searchsorted(offsets, row, side="right") - 1]
        document = self.source.description.document_ids[self.ranges.documents[position]]
        return f"layer {self.layer}, document {document}"


def entries_of(latents: Tensor) -> Entries:
    """What is not 0 of `[row, latent]` float32, row by row, latents ascending."""
    rows, columns = latents.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(latents))
    return Entries(
        counts.cpu().numpy().astype(np.int32),
        columns.cpu().numpy().astype(np.int32),
        latents[rows, columns].cpu().numpy(),
    )


def read_tally(scratch: Path, layer: int, dictionary: Dictionary) -> Tally:
    """The last checkpoint; where there is none, the beginning."""
    path = _checkpoint_path(scratch, layer)
    if not path.exists():
        return Tally(np.zeros(dictionary.d_in), np.zeros(dictionary.width, dtype=np.bool_))
    found, _ = read_tensors(path)
    sums, fired = found.pop("sums"), found.pop("fired")
    return Tally(
        sums, fired.astype(np.bool_), **{name: each.item() for name, each in found.items()}
    )


def _checkpoint(scratch: Path, layer: int, tally: Tally, appender: SparseAppender) -> None:
    """Make sure that the rows are on the disk, then say how far they go."""
    appender.sync()
    arrays = {name: np.asarray(value) for name, value in vars(tally).items()}
    write_tensors(_checkpoint_path(scratch, layer), arrays, {})


def _checkpoint_path(scratch: Path, layer: int) -> Path:
    return scratch / f"layer_{layer}.safetensors"
