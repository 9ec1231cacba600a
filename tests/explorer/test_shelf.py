import gc
from pathlib import Path

import numpy as np
import pytest

from sdlms.explorer import shelf
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import NotFound
from tests.explorer.explorers import (
    click,
    core_of,
    explorer_of,
    n_tokens_of,
    opened_of,
    running,
    say,
    small_model,
    two_turns,
)


def test_a_conversation_is_in_memory_once_also_when_it_was_put_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shelf, "N_KEPT", 1)
    with running(small_model(), tmp_path) as explorer:
        first, second = two_turns(explorer), two_turns(explorer)
        assert explorer.wait_until_filled(30)
        held = opened_of(explorer, first)
        assert opened_of(explorer, second).id == second
        assert opened_of(explorer, first) is held


def test_a_conversation_that_nobody_holds_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shelf, "N_KEPT", 1)
    with running(small_model(), tmp_path) as explorer:
        first, second = two_turns(explorer), two_turns(explorer)
        before = explorer.conversation(first)
        explorer._filler.forget(first)
        explorer.conversation(second)
        gc.collect()
        assert first not in explorer._shelf._opened
        assert explorer.conversation(first) == before


def test_rows_that_a_dead_turn_left_behind_are_not_shown(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path) as explorer:
        talk = say(explorer, "What is two plus two?")["conversation_id"]
        assert explorer.wait_until_filled(30)
        core, n_tokens = core_of(explorer), n_tokens_of(explorer, talk)
        # As if a turn had been killed: rows are there, but the record does not know of them.
        for group in ("hidden", "logit"):
            rows = core.cache.get(talk, group, range(4)).arrays
            core.cache.put(talk, group, n_tokens - 1, rows)
    with running(loaded, tmp_path) as explorer:
        assert explorer.conversation(talk)["tokens"]
        present = core_of(explorer).cache.present(talk, "logit", n_tokens + 3)
        assert np.flatnonzero(present).tolist() == list(range(n_tokens - 1))
        second = say(explorer, "And three?", talk)
        assert explorer.wait_until_filled(30)
        place = second["userTokens"][2]["position"]
        _, states = click(explorer, talk, place, context_size=0)
        following = explorer.conversation(talk)["tokens"][place + 1]["id"]
        assert states[-1]["cells"][0]["next"]["token_id"] == following


def test_a_turn_that_dies_at_once_leaves_an_empty_conversation(tmp_path: Path) -> None:
    loaded = small_model()
    explorer = explorer_of(loaded, tmp_path)
    core = core_of(explorer)
    events = explorer.chat(ChatRequest(text="Hello"))
    talk = next(events)["conversation_id"]
    core.cache.flush()
    record = core.cache.record(talk)
    assert record is not None
    assert record["token_ids"] == []
    explorer.close()


@pytest.mark.parametrize("change", [{"version": 999}, {"token_ids": "?"}])
def test_a_record_that_cannot_be_read_is_not_found(change: dict[str, object]) -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        record = core_of(explorer).cache.record(talk)
        core_of(explorer).cache.save_record("other", {**(record or {}), **change})
        with pytest.raises(NotFound):
            explorer.conversation("other")
        assert talk in [each["conversation_id"] for each in explorer.conversations()]
