import gc
import time
from typing import Any

import numpy as np
import pytest
import torch

from sdlms.explorer import filling, shelf
from sdlms.explorer.filling import MOST_TOKENS
from sdlms.explorer.questions import ChatRequest
from sdlms.lens.rows import LensRows
from sdlms.lens.tuned import Tuned
from tests.explorer.explorers import (
    click,
    core_of,
    n_tokens_of,
    opened_of,
    running,
    say,
    small_model,
    two_turns,
)


def test_every_row_but_the_last_is_filled_and_no_state_waits_for_nothing() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        n_tokens = n_tokens_of(explorer, talk)
        present = core.cache.present(talk, "logit", n_tokens)
        assert present.tolist() == [True] * (n_tokens - 1) + [False]
        assert explorer.status()["unfilled_tokens"] == 0
        held = [p for p in range(n_tokens) if core.waiting.get(talk, p) is not None]
        assert held == [n_tokens - 1]


def test_the_row_of_the_last_token_is_filled_once_the_next_turn_follows() -> None:
    with running(small_model()) as explorer:
        first = say(explorer, "What is two plus two?")
        talk, last = first["conversation_id"], first["tokens"][-1]["position"]
        assert explorer.wait_until_filled(30)
        assert not core_of(explorer).cache.present(talk, "logit", last + 1)[last]
        second = say(explorer, "And three?", talk)
        assert explorer.wait_until_filled(30)
        header, states = click(explorer, talk, last, context_size=0)
        assert header["source"] == "memory"
        following = states[-1]["cells"][0]["next"]
        assert following["token_id"] == second["userTokens"][0]["id"]


def test_the_tuned_lens_is_filled_after_the_logit_lens() -> None:
    tuned = Tuned(torch.zeros(3, 48, 48), torch.zeros(3, 48))
    with running(small_model(), tuned=tuned) as explorer:
        core = core_of(explorer)
        with core.computer.generating():
            talk = two_turns(explorer)
            n_tokens = n_tokens_of(explorer, talk)
        assert explorer.wait_until_filled(30)
        rows = [core.cache.get(talk, lens, range(n_tokens - 1)) for lens in ("logit", "tuned")]
        assert all(found.present.all() for found in rows)
        # Translators of zeros change nothing.
        np.testing.assert_allclose(
            rows[0].arrays["entropy_nats"], rows[1].arrays["entropy_nats"], atol=1e-5
        )


def test_nothing_is_filled_while_a_reply_is_generated() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        with core.computer.generating():
            talk = two_turns(explorer)
            time.sleep(0.05)
            n_tokens = n_tokens_of(explorer, talk)
            assert not core.cache.present(talk, "logit", n_tokens).any()
            assert explorer.status()["unfilled_tokens"] == n_tokens - 1
            assert not explorer.wait_until_filled(0.01)
        assert explorer.wait_until_filled(30)


def test_what_a_click_has_measured_is_not_filled_again() -> None:
    with running(small_model()) as explorer:
        with core_of(explorer).computer.generating():
            talk = two_turns(explorer)
            before = explorer.status()["unfilled_tokens"]
            click(explorer, talk, 9)
            assert explorer.status()["unfilled_tokens"] == before - 10


def test_states_that_no_longer_wait_are_read_from_the_cache() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        with core.computer.generating():
            talk = two_turns(explorer)
            core.waiting.forget(talk)
        assert explorer.wait_until_filled(30)
        n_tokens = n_tokens_of(explorer, talk)
        assert core.cache.present(talk, "logit", n_tokens)[: n_tokens - 1].all()


def test_rows_without_states_are_left_to_clicks() -> None:
    with running(small_model()) as explorer:
        core, talk = core_of(explorer), two_turns(explorer)
        assert explorer.wait_until_filled(30)
        n_tokens = n_tokens_of(explorer, talk)
        core.waiting.forget(talk)
        core.cache.truncate(talk, 0, "logit")
        core.cache.truncate(talk, 6, "hidden")
        explorer._filler.add(opened_of(explorer, talk), range(n_tokens))
        assert explorer.wait_until_filled(30)
        present = core.cache.present(talk, "logit", n_tokens)
        assert present.tolist() == [True] * 6 + [False] * (n_tokens - 6)
        assert click(explorer, talk, 12)[0]["recomputed"]


def test_deleted_conversations_are_not_filled() -> None:
    with running(small_model()) as explorer:
        with core_of(explorer).computer.generating():
            talk = two_turns(explorer)
            opened = opened_of(explorer, talk)
            explorer.delete(talk)
            explorer._filler.add(opened, [0, 1])
            assert explorer.status()["unfilled_tokens"] == 0
        assert explorer.wait_until_filled(30)
        assert not core_of(explorer).waiting._held


def test_batches_are_bounded() -> None:
    with running(small_model()) as explorer:
        filler = explorer._filler
        with core_of(explorer).computer.generating():
            opened = opened_of(explorer, two_turns(explorer))
            batch = filler._next()
        assert batch is not None
        assert batch.opened is opened
        assert 1 <= batch.end - batch.first <= MOST_TOKENS


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("out of memory\nmore"), ValueError("odd shape"), MemoryError(), OSError("gone")],
)
def test_a_conversation_that_fails_is_said_and_the_others_are_filled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    with running(small_model()) as explorer:
        core, failures = core_of(explorer), [failure]
        measure = core.measure

        def measured(*asked: Any) -> LensRows:
            if failures:
                raise failures.pop()
            return measure(*asked)

        monkeypatch.setattr(core, "measure", measured)
        talk = say(explorer, "many words " * 40)["conversation_id"]
        assert explorer.wait_until_filled(30)
        assert not core.cache.present(talk, "logit", n_tokens_of(explorer, talk)).all()
        assert not explorer._filler._todo
        assert not failures
        other = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        n_tokens = n_tokens_of(explorer, other)
        assert core.cache.present(other, "logit", n_tokens).sum() == n_tokens - 1
    said = f"rows of {talk} are left to clicks"
    assert caplog.text.count(said) == 1
    assert (str(failure) or "MemoryError").splitlines()[0] in caplog.text


def test_conversations_that_are_filled_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "N_KEPT", 2)
    with running(small_model()) as explorer:
        talks = [two_turns(explorer) for _ in range(6)]
        assert explorer.wait_until_filled(30)
        deadline = time.monotonic() + 10
        while len(explorer._shelf._opened) > 2 and time.monotonic() < deadline:
            gc.collect()  # the worker may hold the last one that it filled for a moment
            time.sleep(0.01)
        assert sorted(explorer._shelf._opened) == sorted(talks[-2:])
        # What follows the last token of one that was let go is filled all the same.
        last = n_tokens_of(explorer, talks[0]) - 1
        say(explorer, "More?", talks[0])
        assert explorer.wait_until_filled(30)
        assert core_of(explorer).cache.present(talks[0], "logit", last + 1)[last]


def test_the_row_before_a_turn_that_is_not_cached_is_filled() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        last = n_tokens_of(explorer, talk) - 1
        assert explorer.wait_until_filled(30)
        list(
            explorer.chat(ChatRequest(text="More?", conversation_id=talk, cache_activations=False))
        )
        assert explorer.wait_until_filled(30)
        assert core_of(explorer).cache.present(talk, "logit", last + 1)[last]


def test_so_many_conversations_wait_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MOST_CONVERSATIONS", "MOST_OPEN_ENDS"):
        monkeypatch.setattr(filling, limit, 3)
    with running(small_model()) as explorer:
        filler = explorer._filler
        with core_of(explorer).computer.generating():
            talks = [two_turns(explorer) for _ in range(5)]
            assert list(filler._todo) == talks[-3:]
            filler.add_missing(opened_of(explorer, talks[0]))  # comes last, if there is room
            assert list(filler._todo) == talks[-3:]
            filler.forget(talks[3])
            filler.add_missing(opened_of(explorer, talks[0]))
            assert list(filler._todo) == [talks[0], talks[2], talks[4]]
        assert explorer.wait_until_filled(30)
        assert len(filler._open_ends) == 3


def test_so_many_tokens_wait_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(small_model()) as explorer, core_of(explorer).computer.generating():
        talks = [two_turns(explorer)]
        n_tokens = n_tokens_of(explorer, talks[0])
        monkeypatch.setattr(filling, "KEPT_TOKENS", 2 * n_tokens)
        talks += [two_turns(explorer) for _ in range(2)]
        assert list(explorer._filler._todo) == talks[-2:]
        monkeypatch.setattr(filling, "KEPT_TOKENS", 1)
        talks.append(two_turns(explorer))
        assert list(explorer._filler._todo) == talks[-1:]
