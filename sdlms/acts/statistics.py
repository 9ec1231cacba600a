"""Statistics of activations, document by document: from a finished file or from live batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.numerics.quantiles import bits_of_keys, column_quantile, ordered_keys
from sdlms.numerics.sparsity import document_statistics, magnitudes, rectified
from sdlms.storage.activations import ActivationsReader, Key, StoreDtype, dataset_name
from sdlms.storage.counts import read_counts
from sdlms.storage.flat import Array, FlatWriter
from sdlms.storage.rows import Rows, document_blocks

FIRING_QUANTILE = 0.9
# Tokens of a document resemble each other: on the embedded model and tasks, units fire on 0.100 of
# all tokens with a standard deviation of 0.004 over units (0.0017 were tokens independent).
SAMPLE_TOKENS = 32_768
SCAN_TOKENS = 512  # of 2,048 units in float32: 4 MB, which caches hold
SAMPLE_BUFFER_BYTES = 48 << 20
PARTS = 4
TORCH_DTYPES: dict[StoreDtype, torch.dtype] = {
    "float16": torch.float16,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Rule:
    """How one site and layer is measured.

    Attributes:
        fixed_threshold: whether a unit fires above 0; otherwise above its own 0.9 quantile.
        rectify: whether negative means silent (plain MLP) or both signs act.
    """

    fixed_threshold: bool
    rectify: bool

    @property
    def name(self) -> str:
        """The threshold rule as `sparsity.csv` spells it."""
        return "zero" if self.fixed_threshold else f"quantile_{FIRING_QUANTILE}"


def rule_of(site: str, activation_function: str, *, gated: bool) -> Rule:
    """The rule for a site of a model (definitions: activation fraction, threshold)."""
    plain_neurons = site == "mlp_act" and not gated
    return Rule(plain_neurons and activation_function == "relu", plain_neurons)


def as_float(stored: Array) -> Tensor:
    """Stored rows as float32; uint16 are the bits of bfloat16."""
    tensor = torch.from_numpy(stored)
    return (tensor.view(torch.bfloat16) if stored.dtype == np.uint16 else tensor).float()


def is_finite(stored: Tensor) -> bool:
    """Whether no value is infinite or NaN; float16 by its bits, several times faster."""
    if stored.dtype == torch.float16:
        return int((stored.view(torch.int16) & 0x7FFF).amax()) < 0x7C00
    return bool(stored.isfinite().all())


def check_finite(stored: Tensor, key: Key, document_id: str) -> None:
    """Refuse values that overflow the stored type, and those that never were finite.

    Raises:
        UserError: naming site, layer and document.
    """
    if not is_finite(stored):
        raise UserError(
            f"{key[0]} of layer {key[1]}, document {document_id}: a value is beyond the range of "
            f"{str(stored.dtype).removeprefix('torch.')}. Choose --store-dtype bfloat16 or "
            "float32; if that fails too, --dtype float32."
        )


def in_parallel(threads: int, calls: Iterable[Callable[[], None]]) -> None:
    """Do independent calls, several at a time, each on one thread of its own.

    Statistics are many small operations: torch's threads would spend their time waiting for
    each other, and with one thread per call the sums do not depend on `threads`.
    """
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()


def parts_of(n: int) -> list[range]:
    """0 … n - 1 in a fixed number of runs, so that two or more threads are kept equally busy."""
    bounds = [n * part // PARTS for part in range(PARTS + 1)]
    return [range(first, last) for first, last in pairwise(bounds) if first < last]


class DocumentTables:
    """Writes per-document statistics into `counts.h5`, whatever order documents come in."""

    def __init__(self, writer: FlatWriter, rows: Rows) -> None:
        self._writer = writer
        self._mask = rows.mask.astype(bool)
        self._offsets = rows.offsets

    def add(
        self,
        key: Key,
        rule: Rule,
        documents: Sequence[int],
        acts: Tensor,
        thresholds: Tensor,
    ) -> None:
        """Measure documents whose rows follow one another in `acts`.

        Args:
            key: site and layer.
            rule: how to measure.
            documents: indices; runs of consecutive ones are written together.
            acts: `[token, unit]` float32, every row of these documents.
            thresholds: `[unit]` float32.
        """
        masks = [self._mask[self._offsets[d] : self._offsets[d + 1]] for d in documents]
        mask = np.concatenate(masks)
        kept = acts if mask.all() else acts[torch.from_numpy(mask)]
        offsets = np.concatenate([[0], np.cumsum([piece.sum() for piece in masks])])
        strengths = rectified(kept) if rule.rectify else magnitudes(kept)
        found = document_statistics(kept, strengths, offsets.astype(np.int64), thresholds)
        name = dataset_name(key)
        for first, last in _consecutive(documents):
            document = documents[first]
            self._writer.write(f"{name}/counts", document, found.counts[first:last])
            self._writer.write(f"{name}/n_positive", document, found.n_positive[first:last])
            ratios = found.participation_ratio[first:last]
            self._writer.write(f"{name}/participation_ratio", document, ratios)


def _consecutive(documents: Sequence[int]) -> list[tuple[int, int]]:
    """Cut a sequence of documents into runs `(first, last)` of consecutive indices."""
    breaks = [i for i in range(1, len(documents)) if documents[i] != documents[i - 1] + 1]
    bounds = [0, *breaks, len(documents)]
    return list(pairwise(bounds))


def measure_file(
    path: Path, writer: FlatWriter, rows: Rows, rules: Mapping[Key, Rule], threads: int
) -> None:
    """Measure every site and layer of a finished file.

    Args:
        path: `activations.h5`.
        writer: of `counts.h5`, which holds the thresholds.
        rows: tokens and documents of both files.
        rules: how each site and layer is measured.
        threads: how many work at once.
    """
    calls = [
        partial(_measure_documents, path, writer, rows, key, rule, documents)
        for key, rule in rules.items()
        for documents in parts_of(rows.n_documents)
    ]
    in_parallel(threads, calls)


def _measure_documents(
    path: Path, writer: FlatWriter, rows: Rows, key: Key, rule: Rule, documents: range
) -> None:
    """Measure consecutive documents of one site and layer, block by block."""
    thresholds = torch.from_numpy(read_counts(writer.path, f"{dataset_name(key)}/thresholds"))
    tables = DocumentTables(writer, rows)
    offsets = rows.offsets[documents.start : documents.stop + 1]
    with ActivationsReader(path) as reader:
        for first, last in document_blocks(offsets, SCAN_TOKENS):
            stored = reader.read(key, int(offsets[first]), int(offsets[last]))
            tables.add(key, rule, documents[first:last], as_float(stored), thresholds)


def estimate_thresholds(
    path: Path,
    writer: FlatWriter,
    rules: Mapping[Key, Rule],
    documents: Sequence[int] | None,
    threads: int,
) -> None:
    """Fill in the thresholds of `counts.h5`.

    Args:
        path: `activations.h5`, from whose mask-1 tokens quantiles are taken; not read where every
            threshold is fixed.
        writer: of `counts.h5`.
        rules: fixed, or each unit's own quantile.
        documents: those of the file that are in the sample; None takes all.
        threads: how many work at once.

    Raises:
        UserError: no token of the sample has mask 1.
    """
    calls = [
        partial(_write_thresholds, path, writer, key, rule, documents, units)
        for key, rule in rules.items()
        for units in parts_of(writer.shape(f"{dataset_name(key)}/thresholds")[0])
    ]
    in_parallel(threads, calls)


def _write_thresholds(
    path: Path,
    writer: FlatWriter,
    key: Key,
    rule: Rule,
    documents: Sequence[int] | None,
    units: range,
) -> None:
    """Thresholds of consecutive units of one site and layer."""
    thresholds = np.zeros(len(units), dtype=np.float32)
    if not rule.fixed_threshold:
        with ActivationsReader(path) as reader:
            chosen = _sampled_tokens(reader.rows(), documents)
            thresholds = _sample_quantiles(reader, key, units, chosen)
    writer.write(f"{dataset_name(key)}/thresholds", units.start, thresholds)


def _sampled_tokens(rows: Rows, documents: Sequence[int] | None) -> NDArray[np.bool_]:
    """`[token]`, whether a token of mask 1 belongs to one of the documents."""
    chosen = np.zeros(rows.n_tokens, dtype=bool)
    for document in range(rows.n_documents) if documents is None else documents:
        piece = slice(rows.offsets[document], rows.offsets[document + 1])
        chosen[piece] = rows.mask[piece] == 1
    if not chosen.any():
        raise UserError("every token is masked. Lower --skip-first or give longer documents.")
    return chosen


def _sample_quantiles(
    reader: ActivationsReader, key: Key, units: range, chosen: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Quantiles over the chosen rows, `[unit]`, as many units at a time as the buffer holds."""
    store_dtype = reader.store_dtype(key)
    item_bytes = 4 if store_dtype == "float32" else 2
    group = max(SAMPLE_BUFFER_BYTES // (int(chosen.sum()) * item_bytes), 1)
    thresholds = np.empty(len(units), dtype=np.float32)
    for first in range(0, len(units), group):
        some = units[first : first + group]
        values = _unit_major(reader, key, slice(some.start, some.stop), chosen)
        quantiles = column_quantile(values, FIRING_QUANTILE)
        thresholds[first : first + group] = _values_of(quantiles, store_dtype)
    return thresholds


def _unit_major(
    reader: ActivationsReader, key: Key, units: slice, chosen: NDArray[np.bool_]
) -> Array:
    """`[unit, chosen token]`: int16 in the order of the 16-bit floats, or float32 themselves."""
    sixteen_bits = reader.store_dtype(key) != "float32"
    shape = (units.stop - units.start, int(chosen.sum()))
    values = np.empty(shape, dtype=np.int16 if sixteen_bits else np.float32)
    filled = 0
    for first in range(0, len(chosen), SCAN_TOKENS):
        wanted = chosen[first : first + SCAN_TOKENS]
        n_wanted = int(wanted.sum())
        if n_wanted:
            stored = reader.read(key, first, first + len(wanted))[:, units]
            stored = stored if n_wanted == len(wanted) else stored[wanted]
            keys = ordered_keys(stored.view(np.uint16)) if sixteen_bits else stored
            values[:, filled : filled + n_wanted] = keys.T
            filled += n_wanted
    return values


def _values_of(quantiles: Array, store_dtype: StoreDtype) -> NDArray[np.float32]:
    """What `_unit_major` encoded, back as float32."""
    if store_dtype == "float32":
        return quantiles.astype(np.float32)
    bits = bits_of_keys(quantiles.astype(np.int16))
    stored = bits if store_dtype == "bfloat16" else bits.view(np.float16)
    values: NDArray[np.float32] = as_float(stored).numpy()
    return values
