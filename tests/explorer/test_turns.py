from copy import deepcopy
from dataclasses import replace

import pytest

from sdlms.explorer import turns
from sdlms.explorer.core import Core
from sdlms.explorer.prompting import prompting_of
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import BadRequest, NotFound, OutOfRange, TooLarge, TooMany
from sdlms.explorer.settings import ExplorerSettings
from sdlms.explorer.shelf import Opened
from sdlms.models.chat import Message
from sdlms.models.sampling import Sampling
from tests.explorer.explorers import (
    click,
    core_of,
    counted_forwards,
    n_tokens_of,
    opened_of,
    running,
    say,
    small_model,
    standing_still,
    tiny_model,
    turn,
    two_turns,
)
from tests.explorer.toy_tokenizers import STRICT

LONG = Sampling(max_new_tokens=60)


def test_events_come_in_order_and_the_end_repeats_them() -> None:
    with running(small_model()) as explorer:
        events = turn(explorer, "What is two plus two?")
        kinds = [event["event"] for event in events]
        assert kinds == ["start", *["token"] * (len(events) - 2), "done"]
        done, start = events[-1], events[0]
        assert [event["token"]["id"] for event in events[1:-1]] == [t["id"] for t in done["tokens"]]
        tokens = explorer.conversation(done["conversation_id"])["tokens"]
        assert start["userTokens"] + done["tokens"] == tokens
        assert done["userTokens"] == start["userTokens"]
        assert (start["left_positions"], done["left"]) == ([], 0)
        (listed,) = explorer.conversations()
        assert listed["title"] == "What is two plus two?"


def test_the_seed_decides_what_is_drawn() -> None:
    with running(small_model()) as explorer:
        drawn = {
            seed: [say(explorer, "Go", temperature=2.0, seed=seed)["text"] for _ in range(2)]
            for seed in range(4)
        }
    assert all(first == second for first, second in drawn.values())
    assert len({first for first, _ in drawn.values()}) > 1


def test_a_turn_goes_on_where_the_last_one_ended() -> None:
    loaded = small_model()
    with running(loaded) as explorer:
        first = say(explorer, "What is two plus two?")
        with counted_forwards(loaded) as read:
            second = say(explorer, "And three?", first["conversation_id"])
        # The key-value cache is kept: only what is new is read.
        assert sum(read) == len(second["userTokens"]) + len(second["tokens"])


def test_without_room_for_decoders_all_is_read_again_with_the_same_reply() -> None:
    loaded = small_model()
    replies = []
    for settings in (ExplorerSettings(), ExplorerSettings(decoder_bytes=0)):
        with running(loaded, settings=settings) as explorer:
            first = say(explorer, "What is two plus two?")
            replies.append(say(explorer, "And three?", first["conversation_id"])["text"])
    assert replies[0] == replies[1]


def test_messages_open_a_conversation() -> None:
    messages = [
        Message(role="system", content="Be short."),
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hi."),
    ]
    with running(tiny_model("gpt2")) as explorer:
        events = list(explorer.chat(ChatRequest(text="How are you?", messages=messages)))
        talk = events[0]["conversation_id"]
        shown = explorer.conversation(talk)
        assert [m["role"] for m in shown["messages"]] == [
            *("system", "user", "assistant", "user", "assistant")
        ]
        said = [Message(role=m["role"], content=m["content"]) for m in shown["messages"]]
        others = [
            *([*said[:-1], Message(role="assistant", content="Else.")], said[:-1]),
            [*said[:-1], Message(role="user", content=said[-1].content)],
        ]
        for other in others:
            with pytest.raises(BadRequest, match="leave messages out"):
                explorer.chat(ChatRequest(text="On", messages=other, conversation_id=talk))
        assert explorer.conversation(talk) == shown
        list(explorer.chat(ChatRequest(text="On", messages=said, conversation_id=talk)))
        assert len(explorer.conversation(talk)["messages"]) == 7


def test_another_turn_in_the_same_conversation_waits_for_its_end() -> None:
    with running(tiny_model("llama")) as explorer:
        with standing_still(explorer):
            events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
            talk = next(events)["conversation_id"]
            with pytest.raises(TooMany):
                say(explorer, "Me too", talk)
        events.close()
        say(explorer, "Now me", talk)


def test_so_many_replies_at_once() -> None:
    settings = ExplorerSettings(n_generations=2)
    with running(tiny_model("llama"), settings=settings) as explorer:
        with standing_still(explorer):
            held = [explorer.chat(ChatRequest(text="Talk", sampling=LONG)) for _ in range(2)]
            with pytest.raises(TooMany):
                say(explorer, "Me too")
        held[0].close()
        say(explorer, "Now me")
        list(held[1])
        # A refused one takes no place.
        for _ in range(3):
            with pytest.raises(NotFound):
                say(explorer, "Who?", "nobody")
        with standing_still(explorer):
            held = [explorer.chat(ChatRequest(text="Talk", sampling=LONG)) for _ in range(2)]


def test_clicks_are_answered_while_a_reply_is_generated() -> None:
    with running(tiny_model("llama")) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        events = explorer.chat(ChatRequest(text="More", conversation_id=talk, sampling=LONG))
        places = []
        for event in events:
            if event["event"] == "token":
                position = event["token"]["position"]
                places.append(position)
                header, states = click(explorer, talk, position - 1, context_size=2)
                assert not header["recomputed"]
                assert states[-1]["cells"][-1]["next"]["token_id"] == event["token"]["id"]
        assert len(places) == 60


def test_longer_than_may_be_is_refused_and_changes_nothing() -> None:
    settings = ExplorerSettings(max_tokens=100, max_messages=4)
    with running(tiny_model("gpt2"), settings=settings) as explorer:
        with pytest.raises(TooLarge):
            say(explorer, "many words " * 300)  # more than the context
        assert explorer.conversations() == []
        talk = say(explorer, "Hello")["conversation_id"]
        before = explorer.conversation(talk)
        with pytest.raises(TooLarge):
            say(explorer, "many words " * 300, talk)
        for n_new in (90, 98 - len(before["tokens"])):  # with the message itself
            with pytest.raises(TooLarge):
                say(explorer, "Go on", talk, max_new_tokens=n_new)
        last = before["tokens"][-1]
        with pytest.raises(TooLarge):
            explorer.regenerate(talk, last["position"], last["id"], Sampling(max_new_tokens=90))
        assert explorer.conversation(talk) == before
        say(explorer, "Go on", talk)
        with pytest.raises(TooLarge):
            say(explorer, "A third question", talk)


def test_what_the_template_refuses_is_a_bad_request_not_a_long_one() -> None:
    loaded = tiny_model("gpt2")
    tokenizer = deepcopy(loaded.tokenizer)
    tokenizer.chat_template = STRICT
    strict = replace(loaded, prompting=prompting_of(loaded.model, tokenizer))
    with running(strict) as explorer:
        messages = [Message(role="system", content="Be short.")]
        with pytest.raises(BadRequest, match="no system role here"):
            explorer.chat(ChatRequest(text="Hello", messages=messages))
        assert explorer.conversations() == []


def test_so_many_conversations() -> None:
    with running(small_model(), settings=ExplorerSettings(max_conversations=1)) as explorer:
        talk = say(explorer, "Hello")["conversation_id"]
        with pytest.raises(TooMany):
            say(explorer, "Hello again")
        with pytest.raises(TooMany):
            explorer.regenerate(talk, n_tokens_of(explorer, talk) - 1, 5, Sampling())
        say(explorer, "Go on", talk)


def test_what_nobody_wants_cached_is_computed_at_a_click() -> None:
    with running(small_model()) as explorer:
        request = ChatRequest(text="Hello", cache_activations=False)
        talk = list(explorer.chat(request))[-1]["conversation_id"]
        assert explorer.status()["unfilled_tokens"] == 0
        header, _ = click(explorer, talk, 4)
        assert (header["source"], header["recomputed"]) == ("computed", False)


def test_regenerating_goes_on_from_another_token() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        old = explorer.conversation(talk)["tokens"]
        position = next(
            t["position"] for t in old if t["message_index"] == 1 and t["message_start"]
        )
        other = 300 if old[position]["id"] != 300 else 301
        events = list(explorer.regenerate(talk, position, other, Sampling(max_new_tokens=6)))
        new = events[0]["conversation_id"]
        assert new != talk
        start, done = events[0]["tokens"], events[-1]["tokens"]
        assert [t["id"] for t in start[:-1]] == [t["id"] for t in old[:position]]
        assert start[-1]["id"] == other
        assert explorer.conversation(new)["tokens"] == start + done
        assert explorer.conversation(talk)["tokens"] == old
        assert explorer.wait_until_filled(30)
        header, states = click(explorer, new, position)
        assert (header["source"], header["recomputed"]) == ("memory", False)
        assert states[-1]["cells"][-2]["next"]["token_id"] == other
        # What was before the token is what it was there.
        assert click(explorer, new, position - 2)[1] == click(explorer, talk, position - 2)[1]
        assert len(explorer.conversations()) == 2


def test_only_tokens_of_replies_are_regenerated() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        for position, token_id, refusal in (
            (0, 5, OutOfRange),
            (10_000, 5, NotFound),
            (n_tokens_of(explorer, talk) - 1, 3072, OutOfRange),
        ):
            with pytest.raises(refusal):
                explorer.regenerate(talk, position, token_id, Sampling())


def test_a_title_given_during_a_reply_stays() -> None:
    with running(tiny_model("llama")) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        explorer.update(talk, "Mine", None)
        list(events)
        assert explorer.conversations()[0]["title"] == "Mine"
        assert not opened_of(explorer, talk).busy.locked()


def test_a_title_given_when_the_turn_was_just_stored_is_stored_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(tiny_model("llama")) as explorer:
        cache = core_of(explorer).cache
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        wait = cache.wait_for_record

        def rename(conversation_id: str) -> bool:
            is_stored = wait(conversation_id)
            explorer.update(conversation_id, "Late", None)
            return is_stored

        monkeypatch.setattr(cache, "wait_for_record", rename)
        list(events)
        record = cache.record(talk)
        assert record is not None and record["title"] == "Late"


def test_a_beginning_that_cannot_be_copied_leaves_no_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(core: Core, source: Opened, target: Opened, n_tokens: int) -> None:
        assert target.busy.locked()
        raise MemoryError

    with running(small_model()) as explorer:
        talk = say(explorer, "Hello")["conversation_id"]
        monkeypatch.setattr(turns, "copy_rows", fail)
        with pytest.raises(MemoryError):
            explorer.regenerate(talk, n_tokens_of(explorer, talk) - 1, 300, Sampling())
        assert [listed["conversation_id"] for listed in explorer.conversations()] == [talk]
