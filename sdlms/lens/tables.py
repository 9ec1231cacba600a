"""`logit_lens.csv` and `targets.csv`, made of `lens.h5` a block of documents at a time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.lens.chance import Tally, chance
from sdlms.lens.summary import (
    OF_MODEL,
    OF_STATES,
    Floats,
    Summary,
    Sums,
    read_blocks,
    summary_of,
    summed,
)
from sdlms.lens.text_ends import last_positions
from sdlms.numerics.document_bootstrap import Estimate
from sdlms.storage.lens_file import LensReader
from sdlms.storage.rows import Rows
from sdlms.storage.tables import Cell

ALL, MODEL, MEAN = "all", "model", "mean"
Row = dict[str, Cell]


def _with_ends(*names: str) -> list[str]:
    """Columns of estimates and their intervals."""
    return [column for name in names for column in (name, f"{name}_low", f"{name}_high")]


COLUMNS = [
    *("lens", "site", "layer", "task", "n_documents", "n_tokens"),
    *_with_ends("entropy_nats", "kl_to_final_nats", "loss_nats"),
    *(*_with_ends("accuracy"), "accuracy_chance", *_with_ends("agreement"), "agreement_chance"),
    *_with_ends("decided_fraction", *OF_MODEL),
    "reason",
]
OF_TARGETS = ("probability", "log_probability_nats", "first_fraction")
TARGET_COLUMNS = [
    *("lens", "site", "layer", "task", "document", "document_number", "text_end", "token"),
    *("target_id", "target", *_with_ends(*OF_TARGETS), "rank", "reason"),
]


class Said(NamedTuple):
    """What one lens says of all documents.

    Attributes:
        states: of `OF_STATES`, state after state.
        model: of `OF_MODEL`.
        tally: the most probable tokens and the next ones, at the places of `_place`.
    """

    states: Summary
    model: Summary
    tally: Tally


def lens_rows(reader: LensReader, tasks: Sequence[str], seed: int) -> Iterator[Row]:
    """The rows of `logit_lens.csv`.

    Args:
        reader: of a finished `lens.h5`.
        tasks: their names, in order.
        seed: of the bootstrap.
    """
    rows = reader.rows()
    numbers = task_numbers(rows, tasks)
    for lens in reader.lenses:
        said = _said(reader, rows, numbers, lens, seed)
        for place, (site, layer) in enumerate(reader.states):
            for task, name in enumerate([*tasks, ALL]):
                key: Row = {"lens": lens, "site": site, "layer": layer, "task": name}
                found = _named(OF_STATES, said.states, task, place * len(OF_STATES))
                chances = _chances(said.tally, len(reader.states), len(tasks), task, place)
                yield _row(COLUMNS, key, _sizes(said.states, task), found, chances)
        for task, name in enumerate([*tasks, ALL]):
            key = {"lens": lens, "site": MODEL, "layer": None, "task": name}
            found = _named(OF_MODEL, said.model, task, 0)
            yield _row(COLUMNS, key, _sizes(said.model, task), found)


def task_numbers(rows: Rows, tasks: Sequence[str]) -> NDArray[np.int64]:
    """`[document]` the number of each one's task."""
    return np.array([list(tasks).index(task) for task in rows.document_tasks], dtype=np.int64)


def _said(reader: LensReader, rows: Rows, tasks: NDArray[np.int64], lens: str, seed: int) -> Said:
    """Read one lens, once."""
    n_states = len(reader.states)
    counts = np.zeros(rows.n_documents)
    states = np.zeros((rows.n_documents, n_states * len(OF_STATES)))
    model = np.zeros((rows.n_documents, len(OF_MODEL)))
    tally = Tally()
    for block in read_blocks(reader, rows, lens):
        n_positions = len(block.document)
        values = [block.states.reshape(n_positions, -1), block.model]
        sums = summed(block.document, np.concatenate(values, axis=1), rows.n_documents)
        counts += sums.counts
        states += sums.values[:, : -len(OF_MODEL)]
        model += sums.values[:, -len(OF_MODEL) :]
        task = tasks[block.document]
        tally.add(_place(task[:, None], np.arange(n_states), n_states), block.top_ids)
        tally.add(_place(task, n_states, n_states), block.next_ids)
    return Said(
        summary_of(Sums(counts, states), tasks, seed),
        summary_of(Sums(counts, model), tasks, seed),
        tally,
    )


def _place(
    task: NDArray[np.int64], state: int | NDArray[np.int64], n_states: int
) -> NDArray[np.int64]:
    """Where the tokens of a task and state are counted; behind the states, the next tokens."""
    places: NDArray[np.int64] = task * (n_states + 1) + state
    return places


def _chances(tally: Tally, n_states: int, n_tasks: int, task: int, state: int) -> Row:
    """What chance gives for the agreement with the final layer and for the accuracy."""
    own = range(n_tasks) if task == n_tasks else [task]

    def counts(state: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return tally.counts([number * (n_states + 1) + state for number in own])

    here = counts(state)
    return {
        "accuracy_chance": chance(here, counts(n_states)),
        "agreement_chance": chance(here, counts(n_states - 1)),
    }


def _named(names: Sequence[str], summary: Summary, task: int, first: int) -> Row:
    """Estimates by their columns, from quantity `first` on."""
    cells: Row = {}
    for number, name in enumerate(names, start=first):
        cells |= _ends(name, summary.of(task, number))
    return cells


def _ends(name: str, estimate: Estimate) -> Row:
    """The three cells of an estimate."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _sizes(summary: Summary, task: int) -> Row:
    """How much was read, and what is doubtful."""
    return {
        "n_documents": int(summary.n_documents[task]),
        "n_tokens": int(summary.n_positions[task]),
        "reason": summary.reasons[task],
    }


def _row(columns: Sequence[str], *parts: Row) -> Row:
    """A row; what nobody gave is empty."""
    return {
        **dict.fromkeys(columns),
        **{name: cell for part in parts for name, cell in part.items()},
    }


def target_rows(
    reader: LensReader, tasks: Sequence[str], text_ends: Sequence[str], seed: int
) -> Iterator[Row]:
    """The rows of `targets.csv`: what follows each document's last token that is text.

    First the means over documents, task by task and over all; then document by document.

    Args:
        reader: of a finished `lens.h5` with targets.
        tasks: their names, in order.
        text_ends: of each document, by which people know it.
        seed: of the bootstrap.
    """
    rows = reader.rows()
    numbers = task_numbers(rows, tasks)
    lasts = last_positions(rows)
    for lens in reader.lenses:
        found = [_at(reader, lens, int(position)) for position in lasts if position >= 0]
        shape = (rows.n_documents, len(reader.states) * len(reader.targets) * len(OF_TARGETS))
        values = np.zeros(shape)
        values[lasts >= 0] = [each.reshape(-1) for each, _ in found] if found else 0
        sums = Sums((lasts >= 0).astype(np.float64), values)
        summary = summary_of(sums, numbers, seed)
        for task, name in enumerate([*tasks, ALL]):
            for number, key in _target_keys(reader, lens, name):
                cells = _named(OF_TARGETS, summary, task, number * len(OF_TARGETS))
                mean: Row = {"document": MEAN, "reason": summary.reasons[task]}
                yield _row(TARGET_COLUMNS, key, cells, mean)
        for document, position in enumerate(lasts):
            if position >= 0:
                told = _document_rows(reader, rows, lens, document, int(position))
                yield from ({**row, "text_end": text_ends[document]} for row in told)


def _at(reader: LensReader, lens: str, position: int) -> tuple[Floats, NDArray[np.integer]]:
    """`[state, target, quantity]` by `OF_TARGETS`, and `[state, target]` ranks, at one row."""
    logs, ranks = (
        reader.read(lens, name, position, position + 1)[0]
        for name in ("target_log_probability", "target_rank")
    )
    wide = logs.astype(np.float64)
    return np.stack([np.exp(wide), wide, ranks == 1], axis=-1), ranks


def _target_keys(reader: LensReader, lens: str, task: str) -> Iterator[tuple[int, Row]]:
    """Number and key cells of each state and target."""
    targets = reader.targets
    for place, (site, layer) in enumerate(reader.states):
        for index, (token_id, text) in enumerate(targets):
            key: Row = {"lens": lens, "site": site, "layer": layer, "task": task}
            yield place * len(targets) + index, {**key, "target_id": token_id, "target": text}


def _document_rows(
    reader: LensReader, rows: Rows, lens: str, document: int, position: int
) -> Iterator[Row]:
    """One document: its own values, without intervals."""
    values, ranks = _at(reader, lens, position)
    flat, flat_ranks = values.reshape(-1, len(OF_TARGETS)), ranks.reshape(-1)
    for number, key in _target_keys(reader, lens, rows.document_tasks[document]):
        own: Row = dict(zip(OF_TARGETS, map(float, flat[number]), strict=True))
        told: Row = {
            "document": rows.document_ids[document],
            "document_number": document,
            "token": position - int(rows.offsets[document]),
            "rank": int(flat_ranks[number]),
        }
        yield _row(TARGET_COLUMNS, key, own, told)
