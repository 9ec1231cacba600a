"""Over a whole conversation: where a token is predicted, and where predictions are decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.admission import check_characters
from sdlms.explorer.core import Core
from sdlms.explorer.questions import SearchQuestion
from sdlms.explorer.refusals import BadRequest, OutOfRange, one_line
from sdlms.explorer.shapes import Json, layer_of, probability_of
from sdlms.explorer.shelf import Opened
from sdlms.lens.rows import decided_at

POSITIONS_AT_ONCE = 256
ROUNDING = 1e-5  # of a sum of float32 probabilities


class StoredRows(NamedTuple):
    """Rows that are stored, of one lens.

    Attributes:
        positions: ascending, those that were looked at.
        present: which of them have a row.
        arrays: `[position, state, ...]`, by name; what stands where there is no row means nothing.
    """

    positions: list[int]
    present: NDArray[np.bool_]
    arrays: dict[str, NDArray[Any]]

    def there(self) -> Iterator[tuple[int, int]]:
        """Place and position of each row that is stored."""
        return ((place, self.positions[place]) for place in np.flatnonzero(self.present).tolist())


def stored_rows(
    core: Core, opened: Opened, lens: str, first: int = 0, end: int | None = None
) -> Iterator[StoredRows]:
    """The stored rows of a conversation, some positions at a time; nothing is computed."""
    n_tokens = opened.conversation.n_tokens if end is None else end
    for start in range(first, n_tokens, POSITIONS_AT_ONCE):
        positions = list(range(start, min(start + POSITIONS_AT_ONCE, n_tokens)))
        found = core.cache.get(opened.id, lens, positions)
        yield StoredRows(positions, np.asarray(found.present), dict(found.arrays))


def search(core: Core, opened: Opened, question: SearchQuestion) -> Json:
    """Where a token is among the likeliest that are stored.

    `n_uncertain` counts positions where it may be as probable as asked without being one of them.
    The last position is left out: its row is never stored, as what follows it is not known.

    Raises:
        Refusal: the text is not one token, or there is no such token, layer or lens.
    """
    token_id = _token_of(core, question)
    core.check_lens(question.lens)
    states = core.states_at(None if question.layer is None else [question.layer])
    most = core.settings.max_matches
    if not 1 <= question.limit <= most:
        raise OutOfRange(f"limit must be 1 to {most}, got {question.limit}")
    if not 0 <= question.least <= 1:
        raise OutOfRange(f"least must be 0 to 1, got {question.least}")
    matches: list[Json] = []
    n_unfilled = n_uncertain = 0
    for rows in stored_rows(core, opened, question.lens, end=opened.conversation.n_tokens - 1):
        n_unfilled += int((~rows.present).sum())
        if rows.present.any():
            n_uncertain += _n_uncertain(rows, token_id, states, question.least)
        room = question.limit - len(matches)
        if rows.present.any() and room:
            matches += _matches(core, rows, token_id, states, question.least)[:room]
    return {
        "token_id": token_id,
        "text": core.text_of(token_id),
        "n_unfilled": n_unfilled,
        "n_uncertain": n_uncertain,
        "matches": matches,
    }


def _matches(
    core: Core, rows: StoredRows, token_id: int, states: Sequence[int], least: float
) -> list[Json]:
    """Where some rows predict a token with at least this probability."""
    ids = rows.arrays["top_ids"][:, states]
    probabilities = rows.arrays["top_probabilities"][:, states]
    hits = (ids == token_id) & (probabilities >= least) & rows.present[:, None, None]
    return [
        {
            "position": rows.positions[at],
            "state": states[place],
            "layer": layer_of(core.states[states[place]]),
            "name": core.states[states[place]].name,
            "rank": rank + 1,
            "probability": probability_of(probabilities[at, place, rank]),
        }
        for at, place, rank in np.argwhere(hits).tolist()
    ]


def _n_uncertain(rows: StoredRows, token_id: int, states: Sequence[int], least: float) -> int:
    """Positions with a state that may predict a token so probably, and does not name it."""
    ids = rows.arrays["top_ids"][:, states]
    probabilities = rows.arrays["top_probabilities"][:, states]
    # No token beyond them has more than the last of them, or than what they leave.
    rest = np.minimum(probabilities[..., -1], 1 + ROUNDING - probabilities.sum(-1, dtype=float))
    may_be = (rest >= least) & (ids != token_id).all(-1)
    return int((may_be.any(-1) & rows.present).sum())


def _token_of(core: Core, question: SearchQuestion) -> int:
    """The token that is looked for."""
    if question.token_id is not None:
        core.check_token(question.token_id)
        return question.token_id
    if question.text is None:
        raise BadRequest("name the token by text or by token_id")
    check_characters("text", question.text, core.settings)
    ids = core.ids_of(question.text)
    if len(ids) != 1:
        raise BadRequest(
            f"text {one_line(question.text)} is {len(ids)} tokens; a search wants one (a space "
            "before a word counts), or its token_id"
        )
    return ids[0]


def overview(core: Core, opened: Opened, lens: str) -> Json:
    """For each position the layer that decides and the final top probability; null where unfilled.

    Raises:
        OutOfRange: there is no such lens.
    """
    core.check_lens(lens)
    decided: list[int | None] = []
    probabilities: list[float | None] = []
    for rows in stored_rows(core, opened, lens):
        n_rows = len(rows.positions)
        if not rows.present.any():
            decided += [None] * n_rows
            probabilities += [None] * n_rows
            continue
        layers = decided_at(rows.arrays["top_ids"], core.states).tolist()
        final = rows.arrays["top_probabilities"][:, -1, 0].tolist()
        there = rows.present.tolist()
        decided += [
            layer if is_there else None for layer, is_there in zip(layers, there, strict=True)
        ]
        probabilities += [
            probability_of(share) if is_there else None
            for share, is_there in zip(final, there, strict=True)
        ]
    return {
        "positions": list(range(len(decided))),
        "decided_at": decided,
        "final_probability": probabilities,
        "n_unfilled": decided[:-1].count(None),
    }
