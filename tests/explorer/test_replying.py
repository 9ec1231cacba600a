"""What is left of a turn: all of it is kept, whatever fails, and nothing of what was deleted."""

import pytest

from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import OutOfRange
from sdlms.explorer.reply import Recorder, Reply
from sdlms.models.sampling import Sampling
from tests.explorer.explorers import (
    core_of,
    n_tokens_of,
    opened_of,
    running,
    say,
    small_model,
    standing_still,
    tiny_model,
)


def test_a_last_token_that_cannot_be_read_costs_its_own_states_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(reply: Reply) -> None:
        raise RuntimeError("out of memory")

    with running(small_model()) as explorer:
        with monkeypatch.context() as patched:
            patched.setattr(Reply, "read_last", fail)
            events = explorer.chat(ChatRequest(text="Hello", sampling=Sampling(max_new_tokens=5)))
            talk = next(events)["conversation_id"]
            with pytest.raises(RuntimeError, match="memory"):
                list(events)
        core, opened = core_of(explorer), opened_of(explorer, talk)
        n_tokens = n_tokens_of(explorer, talk)
        assert core.cache.present(talk, "hidden", n_tokens).tolist() == [True] * (n_tokens - 1) + [
            False
        ]
        assert not opened.was_recorded(n_tokens - 1)
        assert explorer.wait_until_filled(30)
        assert core.cache.present(talk, "logit", n_tokens).sum() == n_tokens - 1
        assert (core.cache.record(talk) or {})["messages"] == [
            list(message) for message in opened.conversation.messages
        ]
        assert talk in explorer._turns.replying.decoders._kept
        assert say(explorer, "Go on", talk)["tokens"]


def test_states_that_cannot_be_stored_cost_neither_the_turn_nor_its_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(recorder: Recorder) -> None:
        raise ValueError("odd shape")

    with running(small_model()) as explorer:
        with monkeypatch.context() as patched:
            patched.setattr(Recorder, "store", fail)
            events = explorer.chat(ChatRequest(text="Hi", sampling=Sampling(max_new_tokens=2)))
            talk = next(events)["conversation_id"]
            with pytest.raises(ValueError, match="odd shape"):
                list(events)
        assert not opened_of(explorer, talk).busy.locked()
        assert talk in explorer._turns.replying.decoders._kept
        assert say(explorer, "Go on", talk)["tokens"]


def test_a_turn_that_ends_after_its_conversation_was_deleted_keeps_nothing() -> None:
    with running(tiny_model("llama")) as explorer:
        with standing_still(explorer):
            events = explorer.chat(ChatRequest(text="Talk", sampling=Sampling(max_new_tokens=60)))
            talk = next(events)["conversation_id"]
            explorer.delete(talk)
        list(events)
        assert talk not in explorer._turns.replying.decoders._kept
        assert not core_of(explorer).waiting._held
        assert explorer.status()["unfilled_tokens"] == 0
        assert not explorer._filler._todo
        assert not explorer._filler._open_ends


def test_logits_that_are_not_finite_end_the_turn_with_a_reason() -> None:
    loaded = tiny_model("llama")
    head = loaded.model.get_output_embeddings().weight
    before = head.data.clone()
    with running(loaded) as explorer:
        try:
            head.data[5] = float("nan")
            events = explorer.chat(ChatRequest(text="Talk"))
            talk = next(events)["conversation_id"]
            with pytest.raises(OutOfRange, match="finite"):
                list(events)
        finally:
            head.data.copy_(before)
        assert say(explorer, "Better?", talk)["finish"] == "length"
