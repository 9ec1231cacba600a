"""Turns that are given up, deleted, closed, fail or are killed: what was said is kept."""

import errno
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.questions import ChatRequest, SamplingRequest
from sdlms.explorer.refusals import Closed, OutOfRange
from tests.explorer.explorers import (
    click,
    core_of,
    opened_of,
    running,
    say,
    small_model,
    tiny_model,
)

ROOT = Path(__file__).parents[2]
LONG = SamplingRequest(max_new_tokens=60)
# A disk that takes its time, and a process that is gone as soon as the reply is complete.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from sdlms.explorer.cache.disk import DiskLevel
from tests.explorer.explorers import explorer_of, small_model, turn

write_record = DiskLevel.write_record

def slowly(self, conversation, content):
    time.sleep(0.3)
    write_record(self, conversation, content)

DiskLevel.write_record = slowly
explorer = explorer_of(small_model(), Path(sys.argv[1]))
talk = None
for text in ("What is two plus two?", "And three?"):
    talk = turn(explorer, text, talk)[-1]["conversation_id"]
tokens = explorer.conversation(talk)["tokens"]
print(talk, *(token["id"] for token in tokens), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_client_that_goes_away_ends_the_turn_and_what_was_said_stays(tmp_path: Path) -> None:
    loaded = tiny_model("llama")
    with running(loaded, tmp_path) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        said = [next(events)["token"]["id"] for _ in range(5)]
        events.close()
        assert list(events) == []
        tokens = explorer.conversation(talk)["tokens"]
        assert [token["id"] for token in tokens[-5:]] == said
        assert explorer.wait_until_filled(30)
        header, _ = click(explorer, talk, len(tokens) - 2)
        assert (header["source"], header["recomputed"]) == ("memory", False)
        again = say(explorer, "Go on", talk)
        assert again["finish"] == "length"
    with running(loaded, tmp_path) as explorer:
        assert len(explorer.conversation(talk)["tokens"]) > len(tokens)


def test_a_client_that_goes_away_at_once_leaves_a_whole_conversation() -> None:
    with running(tiny_model("llama")) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        events.close()
        (listed,) = explorer.conversations()
        talk = listed["conversation_id"]
        assert say(explorer, "Are you there?", talk)["tokens"]
        header, _ = click(explorer, talk, 3)
        assert (header["source"], header["recomputed"]) == ("computed", False)


def test_deleting_a_conversation_ends_its_turn_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tiny_model("llama"), tmp_path) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        next(events)
        explorer.delete(talk)
        rest = list(events)
        assert rest[-1]["finish"] == "cancelled"
        assert len(rest) < 5
        explorer.close()
        assert not list(tmp_path.rglob(f"{talk}*"))


def test_closing_ends_turns_and_stores_what_was_said(tmp_path: Path) -> None:
    loaded = tiny_model("llama")
    with running(loaded, tmp_path) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        said = [next(events)["token"]["id"] for _ in range(3)]
    with running(loaded, tmp_path) as explorer:
        tokens = explorer.conversation(talk)["tokens"]
        assert [token["id"] for token in tokens[-3:]] == said


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


def test_logits_that_are_not_finite_end_the_turn_with_a_reason() -> None:
    loaded = tiny_model("llama")
    head = loaded.model.get_output_embeddings().weight
    before = head.data.clone()
    with running(loaded) as explorer:
        try:
            head.data[5] = float("nan")
            events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
            talk = next(events)["conversation_id"]
            with pytest.raises(OutOfRange, match="finite"):
                list(events)
        finally:
            head.data.copy_(before)
        assert say(explorer, "Better?", talk)["finish"] == "length"


@pytest.mark.slow  # 5 s: another process imports torch
def test_a_reply_that_is_complete_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    talk, *ids = killed.stdout.split()
    with running(small_model(), tmp_path) as explorer:
        tokens = explorer.conversation(talk)["tokens"]
        assert [token["id"] for token in tokens] == [int(token_id) for token_id in ids]


def test_a_disk_that_fails_holds_no_reply_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*asked: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with running(small_model(), tmp_path) as explorer:
        talk = say(explorer, "Hello")["conversation_id"]
        monkeypatch.setattr(DiskLevel, "write_record", full)
        assert say(explorer, "Go on", talk)["tokens"]
        assert explorer.status()["memory_only"]


def test_a_turn_that_ends_after_its_conversation_was_deleted_keeps_nothing() -> None:
    with running(tiny_model("llama")) as explorer:
        events = explorer.chat(ChatRequest(text="Talk", sampling=LONG))
        talk = next(events)["conversation_id"]
        for _ in range(3):
            next(events)
        explorer.delete(talk)
        list(events)
        assert talk not in explorer._turns.decoders._kept
        assert core_of(explorer).waiting.n_bytes == 0
        assert explorer.status()["unfilled_tokens"] == 0
        assert not explorer._filler._todo
        assert not explorer._filler._open_ends


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
        turn_again = explorer.regenerate(talk, last, own, SamplingRequest(max_new_tokens=4))
        record = cache.record(next(turn_again)["conversation_id"]) or {}
        turn_again.close()
        assert record["messages"][-1] == ["assistant", source.fork(last, own, "x").end_reply()]
