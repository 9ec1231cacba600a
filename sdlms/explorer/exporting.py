"""A conversation with its lens rows as one file: JSON, CSV, or a page that needs no other file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from sdlms.explorer.core import Core
from sdlms.explorer.html_page import html_pieces
from sdlms.explorer.questions import ExportFormat
from sdlms.explorer.refusals import OutOfRange, one_line
from sdlms.explorer.searching import StoredRows, stored_rows
from sdlms.explorer.shapes import Json, cell_json, layer_of, state_json
from sdlms.explorer.shelf import Opened
from sdlms.lens.rows import decided_at

FORMAT_VERSION = 1
COLUMNS = (
    *("position", "token_id", "token", "role", "lens", "state", "layer", "entropy_nats"),
    *("kl_to_final_nats", "next_token_id", "next_log_probability", "next_rank"),
)


def export(core: Core, opened: Opened, kind: ExportFormat) -> Generator[str]:
    """The file's text in pieces; rows that are not stored are left out.

    Raises:
        OutOfRange: there is no such format.
    """
    if kind == "json":
        yield from _json_pieces(core, opened)
    elif kind == "csv":
        yield from _csv_pieces(core, opened)
    elif kind == "html":
        yield from html_pieces(core, opened)
    else:
        raise OutOfRange(f"format {one_line(kind)} is unknown; it is json, csv or html")


def _json_pieces(core: Core, opened: Opened) -> Iterator[str]:
    """One object: the conversation, then the rows of each lens."""
    conversation = opened.conversation
    head = {
        "format": "sdlms explorer conversation",
        "version": FORMAT_VERSION,
        "model": core.loaded.cache_key(),
        "conversation_id": opened.id,
        "title": conversation.title,
        "messages": [message._asdict() for message in conversation.messages],
        "tokens": [token.as_json() for token in conversation.tokens],
        "states": [state_json(index, state) for index, state in enumerate(core.states)],
    }
    yield json.dumps(head)[:-1] + ', "lenses": {'
    for index, lens in enumerate(core.lenses):
        yield f'{", " if index else ""}"{lens}": ['
        separator = ""
        for rows in stored_rows(core, opened, lens):
            for row in _rows_json(core, opened, rows):
                yield separator + json.dumps(row, allow_nan=False)
                separator = ",\n"
        yield "]"
    yield "}}\n"


def _rows_json(core: Core, opened: Opened, rows: StoredRows) -> Iterator[Json]:
    """Each stored row as the API gives it, all its states in the order of the forward pass."""
    decided = decided_at(rows.arrays["top_ids"], core.states)
    for at, position in rows.there():
        next_id = next_id_of(opened, position)
        cells = [
            cell_json(rows.arrays, (at, state), next_id, core.text_of)
            for state in range(core.n_states)
        ]
        for cell in cells:
            del cell["pins"]
        yield {"position": position, "decided_at": int(decided[at]), "states": cells}


def next_id_of(opened: Opened, position: int) -> int:
    """The token that follows a position; -1 where none does."""
    tokens = opened.conversation.tokens
    return tokens[position + 1].id if position + 1 < len(tokens) else -1


def _csv_pieces(core: Core, opened: Opened) -> Iterator[str]:
    """A line per position, lens and state; texts as JSON strings, so that none is a formula."""
    ranked = [
        f"{name}_{rank}"
        for rank in range(1, core.n_top + 1)
        for name in ("token_id", "token", "probability")
    ]
    yield _line([*COLUMNS, *ranked])
    for lens in core.lenses:
        for rows in stored_rows(core, opened, lens):
            for at, position in rows.there():
                yield "".join(_csv_lines(core, opened, lens, rows, at, position))


def _csv_lines(
    core: Core, opened: Opened, lens: str, rows: StoredRows, at: int, position: int
) -> Iterator[str]:
    """The lines of one position."""
    token = opened.conversation.tokens[position]
    known = [position, token.id, json.dumps(token.text), token.role, lens]
    arrays = rows.arrays
    for index, state in enumerate(core.states):
        place = (at, index)
        tops = zip(arrays["top_ids"][place], arrays["top_probabilities"][place], strict=True)
        yield _line(
            [
                *known,
                state.name,
                layer_of(state),
                arrays["entropy_nats"][place],
                arrays["kl_to_final_nats"][place],
                next_id_of(opened, position),
                arrays["next_log_probability"][place],
                arrays["next_rank"][place],
                *(cell for top in tops for cell in _top(core, *top)),
            ]
        )


def _top(core: Core, token_id: np.int32, probability: np.float32) -> tuple[Any, ...]:
    """Three cells of one of the likeliest tokens."""
    return int(token_id), json.dumps(core.text_of(int(token_id))), probability


def _line(cells: Sequence[Any]) -> str:
    """One line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
