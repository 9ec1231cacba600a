"""Turns that are given up, deleted, closed, fail or are killed: what was said is kept."""

import errno
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import Closed
from sdlms.explorer.replying import Begun
from sdlms.explorer.service import Explorer
from sdlms.explorer.settings import ExplorerSettings
from sdlms.explorer.shelf import Opened
from sdlms.models.sampling import Sampling
from tests.explorer.explorers import (
    click,
    core_of,
    n_tokens_of,
    opened_of,
    running,
    say,
    small_model,
    standing_still,
    tiny_model,
)
from tests.explorer.http_server import wait_until

LONG = Sampling(max_new_tokens=60)


def test_a_client_that_goes_away_ends_the_turn_and_what_was_said_stays(tmp_path: Path) -> None:
    loaded = tiny_model("llama")
    with running(loaded, tmp_path) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        said = [next(events)["token"]["id"] for _ in range(5)]
        events.close()
        assert list(events) == []
        tokens = explorer.conversation(talk)["tokens"]
        assert replied(explorer, talk)[:5] == said
        assert explorer.wait_until_filled(30)
        header, _ = click(explorer, talk, len(tokens) - 2)
        assert (header["source"], header["recomputed"]) == ("memory", False)
        again = say(explorer, "Go on", talk)
        assert again["finish"] == "length"
    with running(loaded, tmp_path) as explorer:
        assert len(explorer.conversation(talk)["tokens"]) > len(tokens)


def replied(explorer: Explorer, talk: str) -> list[int]:
    """The ids of the first reply."""
    return [t["id"] for t in explorer.conversation(talk)["tokens"] if t["role"] == "assistant"]


def test_a_client_that_goes_away_at_once_leaves_a_whole_conversation() -> None:
    with running(tiny_model("llama")) as explorer:
        with standing_still(explorer):
            events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
            closing = threading.Thread(target=events.close)
            closing.start()
            wait_until(events._given_up)
        closing.join(10)
        (listed,) = explorer.conversations()
        talk = listed["conversation_id"]
        assert len(replied(explorer, talk)) <= 1
        assert say(explorer, "Are you there?", talk)["tokens"]
        assert not click(explorer, talk, 3)[0]["recomputed"]


def test_a_client_that_reads_nothing_holds_nothing_up() -> None:
    settings = ExplorerSettings(n_generations=1)
    with running(tiny_model("llama"), settings=settings) as explorer:
        unread = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(unread)["conversation_id"]
        deadline = time.monotonic() + 30
        while opened_of(explorer, talk).busy.locked() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert explorer.wait_until_filled(30)
        n_tokens = n_tokens_of(explorer, talk)
        present = core_of(explorer).cache.present(talk, "logit", n_tokens)
        assert present.sum() == n_tokens - 1
        assert say(explorer, "And now me")["tokens"]
        assert say(explorer, "Go on", talk)["tokens"]
        rest = list(unread)  # all the same, for whoever reads on
        assert [event["event"] for event in rest] == ["token"] * 60 + ["done"]


def test_deleting_a_conversation_ends_its_turn_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tiny_model("llama"), tmp_path) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        next(events)
        explorer.delete(talk)
        assert list(events)[-1]["finish"] in ("cancelled", "length")
        with standing_still(explorer):
            events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
            other = next(events)["conversation_id"]
            explorer.delete(other)
        rest = list(events)
        assert rest[-1]["finish"] == "cancelled"
        assert len(rest) < 5
        explorer.close()
        assert not list(tmp_path.rglob(f"{other}*"))
        assert not list(tmp_path.rglob(f"{talk}*"))


def test_closing_ends_turns_and_stores_what_was_said(tmp_path: Path) -> None:
    loaded = tiny_model("llama")
    with running(loaded, tmp_path) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        said = [next(events)["token"]["id"] for _ in range(3)]
        explorer.close()
        assert list(events)[-1]["event"] == "done"
        with pytest.raises(Closed):
            explorer.chat(ChatRequest(text="Talk", sampling=LONG))
    with running(loaded, tmp_path) as explorer:
        assert replied(explorer, talk)[:3] == said


def test_closing_while_replies_are_generated_does_not_hang() -> None:
    with running(tiny_model("llama")) as explorer:
        streams = [explorer.chat(ChatRequest(text="Talk", sampling=LONG)) for _ in range(3)]
        readers = [threading.Thread(target=lambda s=s: drained(s)) for s in streams]
        for reader in readers:
            reader.start()
        time.sleep(0.02)
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()


def drained(events: Iterator[object]) -> None:
    with suppress(Closed):
        list(events)


def test_a_reply_that_is_complete_outlives_a_process_that_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The files at the moment when the reply is complete are what such a process leaves."""
    write_record = DiskLevel.write_record

    def slowly(self: DiskLevel, conversation: str, content: bytes) -> None:
        time.sleep(0.2)
        write_record(self, conversation, content)

    monkeypatch.setattr(DiskLevel, "write_record", slowly)
    with running(small_model(), tmp_path / "own") as explorer:
        talk = None
        for text in ("What is two plus two?", "And three?"):
            done = say(explorer, text, talk)
            talk = done["conversation_id"]
            assert done["stored"]
        shutil.copytree(tmp_path / "own", tmp_path / "killed")
        tokens = explorer.conversation(talk)["tokens"]
    with running(small_model(), tmp_path / "killed") as explorer:
        assert explorer.conversation(talk)["tokens"] == tokens


def test_a_disk_that_fails_holds_no_reply_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*asked: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with running(small_model(), tmp_path) as explorer:
        talk = say(explorer, "Hello")["conversation_id"]
        monkeypatch.setattr(DiskLevel, "write_record", full)
        again = say(explorer, "Go on", talk)
        assert again["tokens"] and not again["stored"]
        assert explorer.status()["memory_only"]


def test_what_is_said_is_stored_before_the_reply(tmp_path: Path) -> None:
    """The record as a process that is killed during a reply leaves it."""
    with running(small_model(), tmp_path) as explorer:
        talk = say(explorer, "Hello")["conversation_id"]
        cache = core_of(explorer).cache
        for conversation_id in (None, talk):
            events = explorer.chat(ChatRequest(text="Who?", conversation_id=conversation_id))
            record = cache.record(next(events)["conversation_id"]) or {}
            events.close()
            assert record["messages"][-1] == ["user", "Who?"]
            assert record["title"] == ("Who?" if conversation_id is None else "Hello")
        source = opened_of(explorer, talk).conversation
        last = next(t.position for t in reversed(source.tokens) if t.role == "assistant")
        own = source.tokens[last].id
        turn_again = explorer.regenerate(talk, last, own, Sampling(max_new_tokens=4))
        record = cache.record(next(turn_again)["conversation_id"]) or {}
        turn_again.close()
        assert record["messages"][-1] == ["assistant", source.fork(last, own, "x").end_reply()]


def test_a_turn_that_begins_while_the_explorer_closes_ends_like_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running(tiny_model("llama"), tmp_path) as explorer:
        turns = explorer._turns
        begin, closing = turns._begin, threading.Thread(target=explorer.close)

        def slowly(opened: Opened, request: ChatRequest) -> Begun:
            closing.start()
            while not turns._is_closed:
                time.sleep(0.001)
            time.sleep(0.05)
            return begin(opened, request)

        monkeypatch.setattr(turns, "_begin", slowly)
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        closing.join(10)
        done = list(events)[-1]
        assert done["finish"] == "cancelled" and done["stored"]
