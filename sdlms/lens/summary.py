"""What lenses say on average: sums of each document, and how far means would move with others."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import Estimate, drawn_documents, percentile_interval
from sdlms.storage.lens_file import DECIDED_AT, LensReader
from sdlms.storage.rows import Rows, document_blocks

N_RESAMPLES = 1000
LEVEL = 0.95
FEWEST_DOCUMENTS = 10
"""Of each task; from fewer, intervals are too narrow: of 3 they hold three times in four."""
READ_TOKENS = 8192
# Numbers of a block of draws, 8 bytes each.
BLOCK_NUMBERS = 2**23
OF_STATES = (
    *("entropy_nats", "kl_to_final_nats", "loss_nats"),
    *("accuracy", "agreement", "decided_fraction"),
)
OF_MODEL = ("decided_at", "decided_depth")

Floats = NDArray[np.float64]


class Block(NamedTuple):
    """What one lens says at the positions of some documents that statistics read.

    Attributes:
        document: `[position]` each one's document.
        next_ids: `[position]` the token that follows.
        top_ids: `[position, state]` the most probable token.
        states: `[position, state, quantity]`, by `OF_STATES`.
        model: `[position, quantity]`, by `OF_MODEL`.
    """

    document: NDArray[np.int64]
    next_ids: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    states: Floats
    model: Floats


def readable_positions(rows: Rows) -> NDArray[np.int64]:
    """Rows whose own token and next token, of the same document, have mask 1; ascending."""
    read = np.zeros(rows.n_tokens, dtype=bool)
    read[:-1] = (rows.mask[:-1] == 1) & (rows.mask[1:] == 1)
    ends = rows.offsets[1:][rows.lengths > 0] - 1
    read[ends] = False
    return np.flatnonzero(read)


def read_blocks(reader: LensReader, rows: Rows, lens: str) -> Iterator[Block]:
    """What a lens says, whole documents at a time, about `READ_TOKENS` tokens together."""
    positions = readable_positions(rows)
    for begin, end in document_blocks(rows.offsets, READ_TOKENS):
        first, last = int(rows.offsets[begin]), int(rows.offsets[end])
        inside = positions[np.searchsorted(positions, first) : np.searchsorted(positions, last)]
        if len(inside):
            yield _block(reader, rows, lens, inside)


def _block(reader: LensReader, rows: Rows, lens: str, positions: NDArray[np.int64]) -> Block:
    """One block."""
    first, last = int(positions[0]), int(positions[-1]) + 1

    def read(name: str) -> NDArray[np.generic]:
        return reader.read(lens, name, first, last)[positions - first]

    next_ids, top_ids = rows.ids[positions + 1], read("top_ids")[..., 0].astype(np.int32)
    decided = read(DECIDED_AT).astype(np.int64)
    states = [
        read("entropy_nats"),
        read("kl_to_final_nats"),
        -read("next_log_probability").astype(np.float64),
        top_ids == next_ids[:, None],
        top_ids == top_ids[:, -1:],
        decided[:, None] <= decided_by(reader.states),
    ]
    return Block(
        document=np.searchsorted(rows.offsets, positions, side="right") - 1,
        next_ids=next_ids,
        top_ids=top_ids,
        states=np.stack(states, axis=-1).astype(np.float64),
        model=np.stack([decided, (decided + 1) / reader.n_layers], axis=-1),
    )


def decided_by(states: tuple[tuple[str, int], ...]) -> NDArray[np.int64]:
    """`[state]` the last layer that is over there: none before the first block, which is -1."""
    return np.array([layer if site == "resid_post" else layer - 1 for site, layer in states])


class Sums(NamedTuple):
    """Of each document, over the positions that statistics read.

    Attributes:
        counts: `[document]` float64, positions.
        values: `[document, quantity]` float64.
    """

    counts: Floats
    values: Floats


def summed(document: NDArray[np.int64], values: Floats, n_documents: int) -> Sums:
    """Sum positions by document.

    Args:
        document: `[position]` ascending.
        values: `[position, quantity]`.
        n_documents: in all.
    """
    counts = np.bincount(document, minlength=n_documents).astype(np.float64)
    sums = np.zeros((n_documents, values.shape[1]))
    present, begins = np.unique(document, return_index=True)
    sums[present] = np.add.reduceat(values, begins, axis=0)
    return Sums(counts, sums)


class Summary(NamedTuple):
    """Means over positions, of each task and of all.

    Attributes:
        estimates: `[task + 1, quantity, 3]` value, lower and upper end; the last row is of all.
        n_documents: `[task + 1]` documents with positions.
        n_positions: `[task + 1]`.
        reasons: `[task + 1]` why there is no value or interval, or a doubtful one; or empty.
    """

    estimates: Floats
    n_documents: NDArray[np.int64]
    n_positions: NDArray[np.int64]
    reasons: list[str]

    def of(self, task: int, quantity: int) -> Estimate:
        """One estimate."""
        return Estimate(*map(float, self.estimates[task, quantity]))


def summary_of(sums: Sums, tasks: NDArray[np.int64], seed: int) -> Summary:
    """Ratios of sums, with percentile intervals over 1,000 draws of documents within tasks.

    Documents without positions are not drawn. The draws depend on the seed and the tasks only:
    what different lenses say of the same documents is drawn in pairs.

    Args:
        sums: of each document.
        tasks: `[document]` from 0.
        seed: of the draws.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 8 (several samples)
    and section 25.2 (a ratio of means).
    """
    n_tasks = int(tasks.max(initial=-1)) + 1
    read = sums.counts > 0
    draws = _draws(Sums(sums.counts[read], sums.values[read]), tasks[read], n_tasks, seed)
    documents = np.bincount(tasks[read], minlength=n_tasks)
    positions = np.bincount(tasks, sums.counts, minlength=n_tasks).astype(np.int64)
    estimates = np.full((n_tasks + 1, sums.values.shape[1], 3), np.nan)
    reasons = []
    for task in range(n_tasks + 1):
        own = documents[documents > 0] if task == n_tasks else documents[[task]]
        few = bool(len(own) == 0 or own.min() < 2)
        estimates[task] = _estimates(draws[:, task], with_interval=not few)
        finite = bool(np.isfinite(draws[0, task]).all())
        reasons.append(_reason(own, finite=finite))
    return Summary(
        estimates,
        np.append(documents, documents.sum()),
        np.append(positions, positions.sum()),
        reasons,
    )


def _draws(sums: Sums, tasks: NDArray[np.int64], n_tasks: int, seed: int) -> Floats:
    """`[draw, task + 1, quantity]` means; draw 0 is the data, NaN where nothing was drawn."""
    totals = np.zeros((N_RESAMPLES + 1, n_tasks, sums.values.shape[1] + 1))
    table = np.column_stack([sums.values, sums.counts])
    generator = np.random.default_rng(seed)
    at_once = max(1, BLOCK_NUMBERS // max(1, len(tasks)))
    for first in range(1, N_RESAMPLES + 1, at_once):
        some = totals[first : first + at_once]
        weights = drawn_documents(tasks, len(some), generator)
        for task in range(n_tasks):
            own = tasks == task
            with np.errstate(invalid="ignore"):  # 0 x inf
                some[:, task] = weights[:, own] @ table[own]
    for task in range(n_tasks):
        totals[0, task] = table[tasks == task].sum(axis=0)
    totals = np.concatenate([totals, totals.sum(axis=1, keepdims=True)], axis=1)
    means: Floats = np.full(totals[..., :-1].shape, np.nan)
    np.divide(totals[..., :-1], totals[..., -1:], out=means, where=totals[..., -1:] > 0)
    return means


def _estimates(draws: Floats, *, with_interval: bool) -> Floats:
    """`[quantity, 3]` of `[draw, quantity]`."""
    found = np.full((draws.shape[1], 3), np.nan)
    known = np.isfinite(draws[0])
    found[known, 0] = draws[0, known]
    for quantity in np.flatnonzero(known) if with_interval else ():
        found[quantity, 1:] = percentile_interval(draws[1:, quantity], LEVEL)
    return found


def _reason(documents: NDArray[np.int64], *, finite: bool) -> str:
    """Why a task's estimates are not what they should be."""
    if not documents.sum():
        return "no position to read"
    if not finite:
        return "a value is not finite"
    fewest = int(documents.min())
    if fewest < 2:
        return "no interval from one document"
    return f"interval from {fewest} documents" if fewest < FEWEST_DOCUMENTS else ""
