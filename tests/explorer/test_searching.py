from collections import Counter

import numpy as np
import pytest

from sdlms.explorer.hidden import hidden_of
from sdlms.explorer.questions import SearchQuestion
from sdlms.explorer.refusals import BadRequest, OutOfRange, Refusal
from sdlms.explorer.searching import stored_rows
from sdlms.explorer.service import Explorer
from tests.explorer.explorers import (
    click,
    core_of,
    n_tokens_of,
    opened_of,
    running,
    small_model,
    two_turns,
)


def predictions(explorer: Explorer, talk: str) -> list[tuple[int, int, int, int, float]]:
    """Position, state, token, rank and probability of everything that clicks show."""
    found = []
    for position in range(n_tokens_of(explorer, talk) - 1):
        _, states = click(explorer, talk, position, context_size=0)
        for state in states:
            for each in state["cells"][0]["top"]:
                own = (each["token_id"], each["rank"], each["probability"])
                found.append((position, state["index"], *own))
    return found


@pytest.mark.parametrize("layer", [None, -1, 2])
@pytest.mark.parametrize("least", [0.0, 0.2])
def test_matches_are_those_of_all_clicks(
    explorer: Explorer, talk: str, layer: int | None, least: float
) -> None:
    shown = [
        each
        for each in predictions(explorer, talk)
        if each[4] >= least and layer in (None, each[1] - 1)
    ]
    token_id = Counter(each[2] for each in shown).most_common(1)[0][0]
    question = SearchQuestion(token_id=token_id, layer=layer, least=least)
    found = explorer.search(talk, question)
    expected = [
        (position, state, rank, probability)
        for position, state, token, rank, probability in shown
        if token == token_id
    ]
    assert [
        (m["position"], m["state"], m["rank"], m["probability"]) for m in found["matches"]
    ] == expected
    assert all(m["layer"] == m["state"] - 1 for m in found["matches"])
    assert found["n_unfilled"] == 0


@pytest.mark.parametrize("layer", [None, 0])
@pytest.mark.parametrize("least", [0.02, 0.3])
def test_what_may_be_missed_is_said(
    explorer: Explorer, talk: str, layer: int | None, least: float
) -> None:
    core, opened = core_of(explorer), opened_of(explorer, talk)
    n_rows = n_tokens_of(explorer, talk) - 1
    states = list(range(core.n_states)) if layer is None else [layer + 1]
    hidden = hidden_of(core, opened, range(n_rows)).states
    for token_id in (9, 300, 17):
        found = explorer.search(talk, SearchQuestion(token_id=token_id, layer=layer, least=least))
        rows = core.measure("logit", hidden, [-1] * n_rows, pins=[token_id])
        shares = np.exp(rows.pin_log_probability[:, states, 0])
        in_top = (rows.top_ids[:, states] == token_id).any(-1)
        missed = ((shares >= least) & ~in_top).any(-1)
        assert missed.sum() <= found["n_uncertain"] <= n_rows
        # Eleven tokens cannot have this much.
        assert least < 1 / 11 or found["n_uncertain"] == 0
    everything = explorer.search(talk, SearchQuestion(token_id=9, least=0.0))
    n_named = len({m["position"] for m in everything["matches"] if len(states) == 1})
    assert everything["n_uncertain"] >= n_rows - n_named > 0


def test_a_text_is_searched_as_its_token(explorer: Explorer, talk: str) -> None:
    found = explorer.search(talk, SearchQuestion(text="User", least=0.0))
    assert found["text"] == "User"
    assert found["matches"]


def test_so_many_matches(explorer: Explorer, talk: str) -> None:
    assert len(explorer.search(talk, SearchQuestion(text="User", least=0, limit=2))["matches"]) == 2


@pytest.mark.parametrize(
    ("question", "refusal"),
    [
        (SearchQuestion(), BadRequest),
        (SearchQuestion(text=""), BadRequest),
        (SearchQuestion(text="several words of text"), BadRequest),
        (SearchQuestion(text="\ud800"), BadRequest),
        (SearchQuestion(token_id=3072), OutOfRange),
        (SearchQuestion(token_id=1, layer=3), OutOfRange),
        (SearchQuestion(token_id=1, least=1.5), OutOfRange),
        (SearchQuestion(token_id=1, least=float("nan")), OutOfRange),
        (SearchQuestion(token_id=1, limit=0), OutOfRange),
        (SearchQuestion(token_id=1, lens="tuned"), OutOfRange),
    ],
)
def test_what_cannot_be_searched_is_refused(
    explorer: Explorer, talk: str, question: SearchQuestion, refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal):
        explorer.search(talk, question)


def test_the_overview_is_what_clicks_say(explorer: Explorer, talk: str) -> None:
    found = explorer.overview(talk)
    n_tokens = n_tokens_of(explorer, talk)
    assert found["positions"] == list(range(n_tokens))
    assert found["n_unfilled"] == 0
    header, states = click(explorer, talk, 20)
    assert found["decided_at"][5:21] == header["decided_at"]
    final = [cell["top"][0]["probability"] for cell in states[-1]["cells"]]
    assert found["final_probability"][5:21] == final
    assert (found["decided_at"][-1], found["final_probability"][-1]) == (None, None)
    with pytest.raises(OutOfRange):
        explorer.overview(talk, "tuned")


def test_what_is_not_filled_is_said() -> None:
    with running(small_model()) as explorer:
        with core_of(explorer).computer.generating():
            talk = two_turns(explorer)
            n_tokens = n_tokens_of(explorer, talk)
            assert explorer.search(talk, SearchQuestion(text="User"))["n_unfilled"] == n_tokens - 1
            click(explorer, talk, 9)
            found = explorer.overview(talk)
            assert found["n_unfilled"] == n_tokens - 11
            assert [each is None for each in found["decided_at"]] == [False] * 10 + [True] * (
                n_tokens - 10
            )


def test_rows_come_some_at_a_time(explorer: Explorer, talk: str) -> None:
    rows = list(stored_rows(core_of(explorer), opened_of(explorer, talk), "logit", 3, 9))
    assert [position for piece in rows for _, position in piece.there()] == list(range(3, 9))
    assert all(np.array_equal(piece.present, [True] * 6) for piece in rows)
