"""Hidden states of positions: those that wait, those that are stored, or computed once more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import Event as Flag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import HIDDEN, Core
from sdlms.explorer.rereading import NEVER, check_wanted
from sdlms.explorer.shelf import Opened
from sdlms.explorer.spans import spans_of
from sdlms.models.generating import PIECE_TOKENS, Decoder, Step


class FoundStates(NamedTuple):
    """Hidden states of some positions.

    Attributes:
        states: `[position, state, d_model]` float32.
        again: whether something that should have been stored was damaged or gone.
    """

    states: NDArray[np.float32]
    again: bool


def states_of_step(step: Step) -> NDArray[np.float32]:
    """`[token, state, d_model]` of what was just read, away from the device."""
    states: NDArray[np.float32] = step.states.float().cpu().numpy()
    return states


def hidden_of(
    core: Core,
    opened: Opened,
    positions: Sequence[int],
    states: Sequence[int] | None = None,
    given_up: Flag = NEVER,
) -> FoundStates:
    """The states of some positions, wherever they come from.

    Args:
        core: model and cache.
        opened: the conversation.
        positions: ascending.
        states: which of the states; None for all.
        given_up: set when nobody waits for them any more.

    Raises:
        GivenUp: that is set, and the model would have to read them again.
    """
    chosen = list(range(core.n_states)) if states is None else list(states)
    found: dict[int, NDArray[np.float32]] = {}
    flaw = _add_kept(core, opened, positions, chosen, found)
    missing = [position for position in positions if position not in found]
    if missing:
        with core.rereading.turn(given_up):
            _add_kept(core, opened, missing, chosen, found)  # whoever read before may have met them
            left = [position for position in missing if position not in found]
            for position, row in _computed(core, opened, left, given_up).items():
                found[position] = row[chosen]
    # With "none" they lie in memory for a while, and nobody promised more.
    is_due = core.cache.columns.is_on_disk(HIDDEN)
    again = flaw or (is_due and any(opened.was_recorded(position) for position in missing))
    return FoundStates(np.stack([found[position] for position in positions]), again)


def _add_kept(
    core: Core,
    opened: Opened,
    positions: Sequence[int],
    states: list[int],
    found: dict[int, NDArray[np.float32]],
) -> bool:
    """Add what waits and what the cache has; whether something of it was damaged."""
    for position in positions:
        if (row := core.waiting.get(opened.id, position)) is not None:
            found[position] = row[states]
    rest = [position for position in positions if position not in found]
    if not rest:
        return False
    stored = core.cache.get(opened.id, HIDDEN, rest, states)
    for place in np.flatnonzero(stored.present):
        found[rest[place]] = stored.arrays["hidden"][place].astype(np.float32)
    return bool(stored.flaw)


def _computed(
    core: Core, opened: Opened, missing: list[int], given_up: Flag
) -> dict[int, NDArray[np.float32]]:
    """Read again what the model read when it met the last missing token first, then the rest."""
    found: dict[int, NDArray[np.float32]] = {}
    while missing:
        found |= _read_again(core, opened, missing, given_up)
        missing = [position for position in missing if position not in found]
    return found


def _read_again(
    core: Core, opened: Opened, missing: list[int], given_up: Flag
) -> dict[int, NDArray[np.float32]]:
    """One prompt up to the last missing position; what it gives of all that were first read in it.

    Everything else that it gives is stored too: the next click is likely to be nearby.
    """
    conversation = opened.conversation
    seen = conversation.seen(missing[-1])
    own = conversation.prefixes.same_prompt(missing[-1])
    wanted = set(missing)
    found: dict[int, NDArray[np.float32]] = {}
    ids = [conversation.tokens[position].id for position in seen]
    decoder = Decoder(core.loaded.model)
    for start in range(0, len(seen), PIECE_TOKENS):
        check_wanted(given_up)
        piece = seen[start : start + PIECE_TOKENS]
        read = core.computer.run(
            Urgency.CLICK, partial(_extend, decoder, ids[start : start + PIECE_TOKENS])
        )
        kept = [place for place, position in enumerate(piece) if position in own]
        found |= {piece[place]: read[place] for place in kept if piece[place] in wanted}
        for span in spans_of([piece[place] for place in kept]):
            place = piece.index(span.first)
            states = read[place : place + span.end - span.first]
            core.store(opened, HIDDEN, span.first, {"hidden": states})
    return found


def _extend(decoder: Decoder, ids: list[int]) -> NDArray[np.float32]:
    """In the thread that computes: the states of some more tokens."""
    return states_of_step(decoder.extend(ids))
