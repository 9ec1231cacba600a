"""A click on a token: what every state says at its position and at those before it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from threading import Event as Flag
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import ROW_NAMES, Core
from sdlms.explorer.filling import Filler
from sdlms.explorer.hidden import hidden_of
from sdlms.explorer.pinned import Pinned, agreeing
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
        positions: ascending.
        present: `[position]`, which of them have a stored row.
        arrays: `[position, state, ...]`, by name.
        next_ids: the token that follows each position; -1 where none does yet.
        source: the slowest place that one of them came from.
        recomputed: whether something was computed again that should have been stored.
    """

    positions: list[int]
    present: NDArray[np.bool_]
    arrays: dict[str, NDArray[Any]]
    next_ids: list[int]
    source: Source
    recomputed: bool

    def last(self) -> Rows:
        """The last one alone."""
        last = {name: array[-1:] for name, array in self.arrays.items()}
        return self._replace(
            positions=self.positions[-1:],
            present=self.present[-1:],
            arrays=last,
            next_ids=self.next_ids[-1:],
        )


class Click(NamedTuple):
    """A question that has been checked.

    Attributes:
        opened: the conversation.
        positions: that are shown, the clicked one last.
        shown: indices of the states that are.
        lens: one of the core's.
        pins: token ids that are followed.
        given_up: set when nobody waits for the answer.
    """

    opened: Opened
    positions: list[int]
    shown: Sequence[int]
    lens: str
    pins: Sequence[int]
    given_up: Flag


def activations(
    core: Core,
    filler: Filler,
    opened: Opened,
    position: int,
    question: Question,
    given_up: Flag,
) -> Generator[Json | None]:
    """The header, then a line per state, the final one first.

    Where rows of the context have to be measured, the panel of the clicked position alone comes
    before, so that nobody waits for them to see it; another header begins the whole. What is wrong
    with the question is raised at once, before anything is computed.

    Raises:
        Refusal: there is no such position, layer, lens or token.
    """
    check_position(opened, position)
    positions = _context(core, position, question)
    shown = core.states_at(question.layers)
    check_pins(core, question.pins)
    core.check_lens(question.lens)
    click = Click(opened, positions, shown, question.lens, question.pins, given_up)
    return _panels(core, filler, click)


def _panels(core: Core, filler: Filler, click: Click) -> Generator[Json | None]:
    """What is known at once, and the whole; None stands before what may take long."""
    rows = _stored(core, click.opened, click.lens, click.positions)
    missing: list[int] = np.flatnonzero(~rows.present).tolist()
    clicked = len(click.positions) - 1
    if missing and clicked not in missing:
        yield from _panel(core, click, rows.last())
        yield None
    if missing:
        left = [click.positions[place] for place in missing]
        hidden = hidden_of(core, click.opened, left, given_up=click.given_up)
        again = rows.recomputed or hidden.again
        rows = rows._replace(source="computed", recomputed=again)
        states = dict(zip(missing, hidden.states, strict=True))
        for some in _in_turn(core, missing, clicked):
            wanted = {place: states[place] for place in some}
            _measure(core, filler, click, rows, wanted)
            if some == [clicked] != missing:
                yield from _panel(core, click, rows.last())
                yield None
    yield from _panel(core, click, rows)


def _panel(core: Core, click: Click, rows: Rows) -> Iterator[Json]:
    """The header and the states of some rows that are shown."""
    opened, shown, pins = click.opened, click.shown, click.pins
    tokens = opened.conversation.tokens
    yield {
        "conversation_id": opened.id,
        "position": rows.positions[-1],
        "lens": click.lens,
        "positions": rows.positions,
        "tokens": [tokens[each].as_json() for each in rows.positions],
        "n_states": core.n_states,
        "decided_at": decided_at(rows.arrays["top_ids"], core.states).tolist(),
        "source": rows.source,
        "recomputed": rows.recomputed,
    }
    hidden = hidden_of(core, opened, rows.positions, shown, click.given_up).states if pins else None
    for place, state in reversed(list(enumerate(shown))):
        cells = [
            cell_json(rows.arrays, (at, state), next_id, core.text_of)
            for at, next_id in enumerate(rows.next_ids)
        ]
        if hidden is not None:
            own = hidden[:, place : place + 1]
            measured = _pinned(core, click.lens, own, core.states[state], pins)
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


def _as_stored(rows: Rows, state: int, pins: Sequence[int], measured: LensRows) -> Pinned:
    """Pins at some positions, `[position, pin]`, as the row says where it knows them.

    They were measured from stored states, which are rounded; the row mostly was not.
    """
    arrays = {name: array[:, state] for name, array in rows.arrays.items()}
    ids = np.broadcast_to(np.array(pins), (len(rows.next_ids), len(pins)))
    pinned = Pinned(measured.pin_log_probability[:, 0], measured.pin_rank[:, 0])
    known = agreeing(arrays["top_ids"], arrays["top_probabilities"], ids, pinned)
    is_next = ids == np.array(rows.next_ids)[:, None]
    return Pinned(
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
    if not 0 <= size <= most:
        raise OutOfRange(f"context_size must be 0 to {most}, got {size}")
    before = size if question.include_context else 0
    return list(range(max(0, position - before), position + 1))


def _stored(core: Core, opened: Opened, lens: str, positions: list[int]) -> Rows:
    """The rows of some positions as far as they are stored."""
    found = core.cache.get(opened.id, lens, positions)
    tokens = opened.conversation.tokens
    next_ids = [tokens[p + 1].id if p + 1 < len(tokens) else -1 for p in positions]
    source: Source = "disk" if found.source == "disk" else "memory"
    arrays = dict(found.arrays)
    return Rows(positions, found.present, arrays, next_ids, source, bool(found.flaw))


def _in_turn(core: Core, missing: Sequence[int], clicked: int) -> list[list[int]]:
    """Places to be measured one after another: the clicked one, then a bounded number at a time."""
    own = [place for place in missing if place == clicked]
    others = [place for place in missing if place != clicked]
    n_at_once = max(1, core.settings.fill_rows // core.n_states)
    pieces = [others[n : n + n_at_once] for n in range(0, len(others), n_at_once)]
    return [own, *pieces] if own else pieces


def _measure(
    core: Core,
    filler: Filler,
    click: Click,
    rows: Rows,
    states: Mapping[int, NDArray[np.float32]],
) -> None:
    """Measure the rows at some places, and store them.

    What follows the conversation's last token is not known: its row is not stored.

    Args:
        core: model and cache.
        filler: is told what it need not do any more.
        click: of which conversation and lens.
        rows: are written to.
        states: `[state, d_model]` by place, ascending.
    """
    opened, lens, places = click.opened, click.lens, list(states)
    hidden = np.stack(list(states.values()))
    measure = partial(core.measure, lens, hidden, [rows.next_ids[place] for place in places])
    measured = core.computer.run(Urgency.CLICK, measure)
    for name in ROW_NAMES:
        rows.arrays[name][places] = getattr(measured, name)
    complete = [place for place in places if rows.next_ids[place] >= 0]
    for span in spans_of(complete):  # positions follow one another where places do
        part = {name: rows.arrays[name][span.first : span.end] for name in ROW_NAMES}
        core.store(opened, lens, rows.positions[span.first], part)
    filler.done(opened, lens, [rows.positions[place] for place in complete])
