import gc
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from sdlms.explorer import shelf
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.conversation import Conversation
from sdlms.explorer.refusals import NotFound
from tests.explorer.cached_rows import settle
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


STRANGE: list[dict[str, Any]] = [
    {"version": 999},
    {"version": 0, "token_ids": None},
    {"token_ids": "?"},
    {"title": 5},
    {"title": "\ud800"},
    {"messages": None},
    {"created": 5},
    {"updated": []},
    {"uncached": [[1]]},
    {"turns": [[0, 1, 1, None]]},
]


@pytest.mark.parametrize("change", STRANGE)
def test_a_record_that_cannot_be_read_does_not_hide_the_others(
    change: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with running(small_model(), tmp_path) as explorer:
        talk = two_turns(explorer)
        record = core_of(explorer).cache.record(talk)
        core_of(explorer).cache.save_record("other", {**(record or {}), **change})
        settle(core_of(explorer).cache)
        if not {"title", "updated"} & set(change):
            with pytest.raises(NotFound):
                explorer.conversation("other")
        for _ in range(2):
            assert [each["conversation_id"] for each in explorer.conversations()] == [talk]
        said = f"{caplog.text} {explorer.status()['warnings']}"
        assert len(re.findall("other(.json was damaged| cannot be listed)", said)) == 1
        # What another version wrote may be of use to that one.
        assert ("other" in core_of(explorer).cache.ids()) == ("version" in change)


def test_what_has_no_tokens_is_not_listed() -> None:
    with running(small_model()) as explorer:
        empty = Conversation("empty", core_of(explorer).loaded.prompting, title="Never begun")
        core_of(explorer).cache.save_record("empty", empty.to_record())
        assert explorer.conversations() == []


def test_what_is_deleted_does_not_come_back_while_others_look_at_it(tmp_path: Path) -> None:
    with running(small_model(), tmp_path) as explorer:
        talks = [str(say(explorer, f"Hello {n}")["conversation_id"]) for n in range(12)]
        ended = Event()

        def look() -> None:
            while not ended.is_set():
                explorer.conversations()
                for talk in talks:
                    with suppress(NotFound):
                        explorer.conversation(talk)

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(look) for _ in range(3)]
            for talk in talks:
                explorer.delete(talk)
                with pytest.raises(NotFound):
                    explorer.conversation(talk)
            ended.set()
            for reader in readers:
                reader.result()
            del readers
        gc.collect()
        assert explorer.conversations() == []
        assert not explorer._shelf._opened
        assert not [path for path in tmp_path.rglob("*.h5") if path.is_file()]


def test_nobody_reads_a_conversation_again_while_its_files_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running(small_model(), tmp_path) as explorer:
        talk = str(say(explorer, "Hello")["conversation_id"])
        cache = core_of(explorer).cache
        delete = cache.delete

        def looked_at(conversation: str) -> bool:
            with pytest.raises(NotFound):
                explorer.conversation(talk)
            with pytest.raises(NotFound):
                explorer.delete(talk)
            assert explorer.conversations() == []
            return delete(conversation)

        monkeypatch.setattr(cache, "delete", looked_at)
        explorer.delete(talk)
        assert talk not in cache.ids()


def test_a_list_that_is_made_meanwhile_does_not_bring_a_deleted_one_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running(small_model(), tmp_path) as explorer:
        talk = str(say(explorer, "Hello")["conversation_id"])
        cache = core_of(explorer).cache
        explorer._shelf._summaries.clear()
        record = cache.record

        def then_deleted(conversation_id: str) -> Any:
            found = record(conversation_id)
            monkeypatch.undo()
            explorer.delete(talk)
            return found

        monkeypatch.setattr(cache, "record", then_deleted)
        explorer.conversations()
        assert explorer.conversations() == [] and not explorer._shelf._summaries


def test_while_one_is_read_others_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running(small_model(), tmp_path) as explorer:
        talks = [str(say(explorer, f"Hello {n}")["conversation_id"]) for n in range(4)]
    with running(small_model(), tmp_path) as explorer:
        cache = core_of(explorer).cache
        begun, gate = Event(), Event()
        record = cache.record

        def slowly(conversation_id: str) -> Any:
            if conversation_id == talks[0]:
                begun.set()
                assert gate.wait(30)
            return record(conversation_id)

        monkeypatch.setattr(cache, "record", slowly)
        gates = explorer._shelf._gates
        others = [talk for talk in talks if gates.of(talk) is not gates.of(talks[0])]
        assert others
        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(opened_of, explorer, talks[0]) for _ in range(3)]
            assert begun.wait(30)
            assert opened_of(explorer, others[0]).id == others[0]
            explorer.delete(others[0])
            gate.set()
            assert len({id(reader.result()) for reader in readers}) == 1


def test_long_conversations_are_put_away_sooner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running(small_model(), tmp_path) as explorer:
        first, second = (two_turns(explorer) for _ in range(2))
        n_tokens = n_tokens_of(explorer, first) + n_tokens_of(explorer, second)
        assert len(explorer._shelf._kept) == 2
        monkeypatch.setattr(shelf, "KEPT_TOKENS", n_tokens - 1)
        explorer.conversation(second)
        assert list(explorer._shelf._kept) == [second]
        monkeypatch.setattr(shelf, "KEPT_TOKENS", 1)
        explorer.conversation(second)
        assert list(explorer._shelf._kept) == [second]  # what is looked at stays


def test_what_left_the_disk_is_not_lost(tmp_path: Path) -> None:
    limits = CacheLimits(disk_bytes=1)
    loaded = small_model()
    with running(loaded, tmp_path, limits=limits) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        two_turns(explorer)
        assert explorer.wait_until_filled(30)
        settle(core_of(explorer).cache)
        assert core_of(explorer).cache.n_evictions(talk)
        header, _ = click(explorer, talk, 12)
        assert (header["source"], header["recomputed"]) == ("computed", False)
        assert say(explorer, "And then?", talk)["tokens"]
    with running(loaded, tmp_path) as explorer:  # the record knows it too
        core_of(explorer).cache.truncate(talk, 0)
        assert not click(explorer, talk, 12)[0]["recomputed"]
        last = n_tokens_of(explorer, talk) - 2
        core_of(explorer).cache.truncate(talk, 0)
        assert click(explorer, talk, last)[0]["recomputed"]
