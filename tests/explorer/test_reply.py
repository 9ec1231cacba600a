"""A reply as transformers itself would generate it, and the states that are recorded of it."""

from threading import Event as Flag

import numpy as np
import pytest
import torch

from sdlms.explorer.conversation import Conversation
from sdlms.explorer.decoders import Decoders
from sdlms.explorer.reply import STORED_AT_ONCE, Recorder, Reply
from sdlms.explorer.service import Explorer
from sdlms.explorer.shelf import Opened
from sdlms.models.sampling import Sampling
from tests.explorer.explorers import core_of, running, small_model, tiny_model
from tests.explorer.talks import prompt_ids

NEVER = Flag()


def begun(
    explorer: Explorer, first: int | None = 0, n_new: int = 8
) -> tuple[Opened, Reply, Recorder]:
    """A new conversation whose reply begins."""
    core = core_of(explorer)
    opened = Opened(Conversation("talk", core.loaded.prompting))
    explorer._shelf.add(opened)
    opened.conversation.add_user("What is two plus two?", n_new)
    recorder = Recorder(core, opened, explorer._filler, first)
    decoder = Decoders(core.loaded.model, 0).take("talk")
    reply = Reply(core, opened, decoder, Sampling(max_new_tokens=n_new), recorder)
    opened.conversation.begin_reply()
    return opened, reply, recorder


def test_greedy_tokens_are_those_of_transformers() -> None:
    loaded = tiny_model("llama")
    with running(loaded) as explorer:
        opened, reply, _ = begun(explorer)
        prompt = prompt_ids(opened.conversation)
        own = [token.id for token in reply.tokens(NEVER)]
        assert reply.finish == "length"
    ids = torch.tensor([prompt])
    generated = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert own == generated[0, len(prompt) :].tolist()


def test_states_of_all_tokens_are_recorded_the_last_one_too() -> None:
    with running(small_model()) as explorer:
        opened, reply, recorder = begun(explorer, n_new=STORED_AT_ONCE * 2 + 3)
        list(reply.tokens(NEVER))
        reply.read_last()
        recorder.store()
        n_tokens = opened.conversation.n_tokens
        assert recorder.recorded == set(range(n_tokens))
        stored = core_of(explorer).cache.get("talk", "hidden", range(n_tokens))
        assert stored.present.all()
        read = small_model().model(
            torch.tensor([prompt_ids(opened.conversation)]), output_hidden_states=True
        )
        expected = read.hidden_states[1][0].detach().numpy()
        found = stored.arrays["hidden"][:, 1].astype(np.float32)
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_end_of_the_template_ends_the_reply() -> None:
    with running(small_model()) as explorer:
        opened, reply, _ = begun(explorer, n_new=200)
        tokens = list(reply.tokens(NEVER))
        assert reply.finish == "stop"
        assert len(tokens) < 200
        assert opened.conversation.reply_ended


def test_a_reply_that_is_given_up_ends_with_the_next_token() -> None:
    with running(tiny_model("llama")) as explorer:
        _, reply, _ = begun(explorer)
        given_up, drawn = Flag(), []
        for token in reply.tokens(given_up):
            drawn.append(token)
            if len(drawn) == 3:
                given_up.set()
        assert (len(drawn), reply.finish) == (3, "cancelled")
        reply.read_last()


@pytest.mark.parametrize("first", [None, 4])
def test_only_what_is_new_is_recorded(first: int | None) -> None:
    with running(small_model()) as explorer:
        opened, reply, recorder = begun(explorer, first)
        list(reply.tokens(NEVER))
        recorder.store()
        n_read = opened.conversation.n_tokens - 1
        assert recorder.recorded == (set() if first is None else set(range(first, n_read)))


def test_positions_with_gaps_are_recorded_where_they_are() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        opened = Opened(Conversation("talk", core.loaded.prompting))
        explorer._shelf.add(opened)
        recorder = Recorder(core, opened, explorer._filler, 2)
        states = np.random.default_rng(0).normal(size=(6, 4, 48)).astype(np.float32)
        recorder.take([0, 1, 2, 3, 7, 8], states)
        recorder.store()
        assert recorder.recorded == {2, 3, 7, 8}
        stored = core.cache.get("talk", "hidden", range(9))
        assert np.flatnonzero(stored.present).tolist() == [2, 3, 7, 8]
        np.testing.assert_allclose(stored.arrays["hidden"][[2, 3, 7, 8]], states[2:], atol=5e-3)


def test_seconds_are_counted() -> None:
    with running(small_model()) as explorer:
        _, reply, _ = begun(explorer)
        list(reply.tokens(NEVER))
        assert reply.seconds > 0
