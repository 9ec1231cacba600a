"""A click on a token: what every state says at its position and at those before it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import ROW_NAMES, Core
from sdlms.explorer.filling import Filler
from sdlms.explorer.hidden import hidden_of
from sdlms.explorer.likeliest import Asked, agreeing
from sdlms.explorer.questions import Question
from sdlms.explorer.refusals import NotFound, OutOfRange
from sdlms.explorer.shapes import Json, cell_json, pins_json, state_json
from sdlms.explorer.shelf import Opened
from sdlms.explorer.spans import spans_of
from sdlms.lens.rows import LensRows, decided_at
from sdlms.lens.states import State

Source = Literal["memory", "disk", "computed"]


class Rows(NamedTuple):
    """Lens rows of some positions.

    Attributes:
        arrays: `[position, state, ...]`, by name.
        next_ids: the token that follows each position; -1 where none does yet.
        source: the slowest place that one of them came from.
        recomputed: whether something was computed again that should have been stored.
    """

    arrays: dict[str, NDArray[Any]]
    next_ids: list[int]
    source: Source
    recomputed: bool


def activations(
    core: Core, filler: Filler, opened: Opened, position: int, question: Question
) -> Generator[Json]:
    """The header, then a line per state, the final one first.

    Raises:
        Refusal: there is no such position, layer, lens or token.
    """
    check_position(opened, position)
    positions = _context(core, position, question)
    shown = core.states_at(question.layers)
    check_pins(core, question.pins)
    core.check_lens(question.lens)
    rows = rows_of(core, filler, opened, question.lens, positions)
    tokens = opened.conversation.tokens
    yield {
        "conversation_id": opened.id,
        "position": position,
        "lens": question.lens,
        "positions": positions,
        "tokens": [tokens[each].as_json() for each in positions],
        "n_states": core.n_states,
        "decided_at": decided_at(rows.arrays["top_ids"], core.states).tolist(),
        "source": rows.source,
        "recomputed": rows.recomputed,
    }
    pins = question.pins
    hidden = hidden_of(core, opened, positions, shown).states if pins else None
    for place, state in reversed(list(enumerate(shown))):
        cells = [
            cell_json(rows.arrays, (at, state), next_id, core.text_of)
            for at, next_id in enumerate(rows.next_ids)
        ]
        if hidden is not None:
            own = hidden[:, place : place + 1]
            measured = _pinned(core, question.lens, own, core.states[state], pins)
            known = _as_stored(rows, state, pins, measured)
            for at, cell in enumerate(cells):
                cell["pins"] = pins_json(pins, known.log_probability[at], known.rank[at])
        yield state_json(state, core.states[state]) | {"cells": cells}


def _pinned(
    core: Core, lens: str, hidden: NDArray[np.float32], state: State, pins: Sequence[int]
) -> LensRows:
    """What one state says of pinned tokens, at some positions `[position, 1, d_model]`.

    A state at a time: the first lines are sent while the next are measured. What is said of the
    distance to the final state means nothing here.
    """
    unknown = [-1] * len(hidden)
    return core.computer.run(
        Urgency.CLICK, lambda: core.measure(lens, hidden, unknown, [state], pins)
    )


def _as_stored(rows: Rows, state: int, pins: Sequence[int], measured: LensRows) -> Asked:
    """Pins at some positions, `[position, pin]`, as the row says where it knows them.

    They were measured from stored states, which are rounded; the row mostly was not.
    """
    arrays = {name: array[:, state] for name, array in rows.arrays.items()}
    ids = np.broadcast_to(np.array(pins), (len(rows.next_ids), len(pins)))
    asked = Asked(measured.pin_log_probability[:, 0], measured.pin_rank[:, 0])
    known = agreeing(arrays["top_ids"], arrays["top_probabilities"], ids, asked)
    is_next = ids == np.array(rows.next_ids)[:, None]
    return Asked(
        np.where(is_next, arrays["next_log_probability"][:, None], known.log_probability),
        np.where(is_next, arrays["next_rank"][:, None], known.rank),
    )


def check_position(opened: Opened, position: int) -> None:
    """Refuse a position that the conversation does not have.

    Raises:
        NotFound: so it is.
    """
    n_tokens = opened.conversation.n_tokens
    if not 0 <= position < n_tokens:
        raise NotFound(f"no position {position}; the conversation has {n_tokens} tokens")


def check_pins(core: Core, pins: Sequence[int]) -> None:
    """Refuse pins that cannot be followed.

    Raises:
        OutOfRange: there are too many, or one is not in the vocabulary.
    """
    if len(pins) > core.settings.max_pins:
        raise OutOfRange(f"at most {core.settings.max_pins} pins at once, got {len(pins)}")
    for token_id in pins:
        core.check_token(token_id)


def _context(core: Core, position: int, question: Question) -> list[int]:
    """The positions that are shown, the clicked one last."""
    size, most = question.context_size, core.settings.max_context_size
    if size is None:
        size = core.settings.context_size
    if not 0 <= size <= most:
        raise OutOfRange(f"context_size must be 0 to {most}, got {size}")
    before = size if question.include_context else 0
    return list(range(max(0, position - before), position + 1))


def rows_of(
    core: Core, filler: Filler, opened: Opened, lens: str, positions: Sequence[int]
) -> Rows:
    """The rows of some positions: stored ones, and the others computed and stored.

    Args:
        core: model and cache.
        filler: is told what it need not do any more.
        opened: the conversation.
        lens: `logit` or `tuned`.
        positions: ascending.
    """
    tokens = opened.conversation.tokens
    n_tokens = len(tokens)
    next_ids = [tokens[p + 1].id if p + 1 < n_tokens else -1 for p in positions]
    found = core.cache.get(opened.id, lens, positions)
    missing: list[int] = np.flatnonzero(~found.present).tolist()
    if not missing:
        source: Source = "disk" if found.source == "disk" else "memory"
        return Rows(dict(found.arrays), next_ids, source, bool(found.flaw))
    lacking = [positions[place] for place in missing]
    hidden = hidden_of(core, opened, lacking)
    wanted = [next_ids[place] for place in missing]
    measured = core.computer.run(Urgency.CLICK, lambda: core.measure(lens, hidden.states, wanted))
    new = {name: getattr(measured, name) for name in ROW_NAMES}
    complete = [position for position in lacking if position + 1 < n_tokens]
    for span in spans_of(complete):
        first = lacking.index(span.first)
        part = {name: rows[first : first + span.end - span.first] for name, rows in new.items()}
        core.store(opened, lens, span.first, part)
    filler.done(opened, lens, complete)
    arrays = {
        name: _merged(found.arrays.get(name), rows, missing, len(positions))
        for name, rows in new.items()
    }
    return Rows(arrays, next_ids, "computed", bool(found.flaw) or hidden.again)


def _merged(
    stored: NDArray[Any] | None, new: NDArray[Any], places: list[int], n_positions: int
) -> NDArray[Any]:
    """Stored rows with new ones in their places."""
    whole = np.zeros((n_positions, *new.shape[1:]), new.dtype) if stored is None else stored.copy()
    whole[places] = new
    return whole
