"""The explorer as a whole: many clients, a small memory, damaged files, a restart."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdlms.explorer.questions import SearchQuestion
from sdlms.explorer.refusals import BadRequest, NotFound, OutOfRange, Refusal, TooLarge
from sdlms.explorer.settings import ExplorerSettings
from tests.explorer.explorers import (
    click,
    counted_forwards,
    explorer_of,
    n_tokens_of,
    running,
    say,
    small_model,
    tiny_model,
    two_turns,
)

QUESTIONS = [f"Tell me about the number {n}." for n in range(10)]


def test_info_describes_the_model() -> None:
    with running(small_model()) as explorer:
        info = explorer.info()
    assert (info["num_layers"], info["d_model"], info["vocab_size"]) == (3, 48, 3072)
    assert [state["index"] for state in info["states"]] == [0, 1, 2, 3]
    assert info["lenses"] == ["logit"]
    assert info["limits"]["n_generations"] == ExplorerSettings().n_generations


def test_ten_conversations_at_once_say_what_each_says_alone() -> None:
    loaded, settings = small_model(), ExplorerSettings(n_generations=10, unembed="float32")
    with running(loaded, settings=settings) as explorer:
        alone = [say(explorer, question)["text"] for question in QUESTIONS]
        start = threading.Barrier(len(QUESTIONS))

        def talk(question: str) -> tuple[str, str, list[str]]:
            start.wait()
            first = say(explorer, question)
            talk = first["conversation_id"]
            say(explorer, "Go on.", talk)
            sources = [click(explorer, talk, p)[0]["source"] for p in range(0, 20, 3)]
            return talk, first["text"], sources

        with ThreadPoolExecutor(len(QUESTIONS)) as clients:
            found = list(clients.map(talk, QUESTIONS))
        assert [text for _, text, _ in found] == alone
        assert explorer.wait_until_filled(60)
        for conversation_id, _, _ in found:
            header, _ = click(explorer, conversation_id, 20)
            assert (header["source"], header["recomputed"]) == ("memory", False)


def test_a_conversation_longer_than_the_context_stays_clickable() -> None:
    loaded = tiny_model("gpt_neox-parallel", 64)
    with running(loaded) as explorer:
        talk = say(explorer, "What is the first thing to say?")["conversation_id"]
        assert explorer.wait_until_filled(30)
        early = click(explorer, talk, 10)[1]
        left = 0
        for n in range(6):
            left = say(explorer, f"Question number {n}, is it?", talk)["left"]
        assert left > 0
        assert explorer.wait_until_filled(30)
        n_tokens = n_tokens_of(explorer, talk)
        assert n_tokens > 100
        assert click(explorer, talk, 10)[1] == early
        with counted_forwards(loaded) as read:
            headers = [click(explorer, talk, p)[0] for p in range(0, n_tokens - 1, 7)]
        assert not read
        assert {header["source"] for header in headers} == {"memory"}
        tokens = explorer.conversation(talk)["tokens"]
        assert sum(not token["in_prompt"] for token in tokens) == left


def test_conversations_are_listed_renamed_and_deleted(tmp_path: Path) -> None:
    with running(small_model(), tmp_path) as explorer:
        first, second = two_turns(explorer), two_turns(explorer)
        explorer.update(first, "Mine", None)
        assert [each["conversation_id"] for each in explorer.conversations()] == [first, second]
        explorer.delete(first)
        assert [each["conversation_id"] for each in explorer.conversations()] == [second]
        with pytest.raises(NotFound):
            explorer.conversation(first)
        explorer.close()
        assert not list(tmp_path.rglob(f"{first}*"))


def test_tokens_of_a_text() -> None:
    with running(small_model()) as explorer:
        found = explorer.tokens_of(" colours of")
        assert "".join(token["text"] for token in found) == " colours of"
        assert explorer.token(found[0]["token_id"]) == found[0]
        for text, refusal in (("", BadRequest), ("\ud800", BadRequest), ("a" * 200_000, TooLarge)):
            with pytest.raises(refusal):
                explorer.tokens_of(text)
        with pytest.raises(OutOfRange):
            explorer.token(3072)


def test_unknown_conversations_are_refused() -> None:
    with running(small_model()) as explorer:
        for conversation_id in ("nobody", "../../etc/passwd", "", "a" * 65):
            for ask in (
                lambda i: explorer.conversation(i),
                lambda i: explorer.update(i, "x", None),
                lambda i: explorer.delete(i),
                lambda i: click(explorer, i, 0),
                lambda i: explorer.attention(i, 0, None),
                lambda i: explorer.search(i, SearchQuestion(token_id=1)),
                lambda i: explorer.overview(i),
                lambda i: explorer.export(i, "json"),
            ):
                with pytest.raises(NotFound):
                    ask(conversation_id)


def test_titles_are_texts() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        for title in ("", " ", "\udfff"):
            with pytest.raises(BadRequest):
                explorer.update(talk, title, None)


def test_after_closing_everything_is_refused_or_stored() -> None:
    before = set(threading.enumerate())  # of other tests' explorers, perhaps
    explorer = explorer_of(small_model())
    talk = two_turns(explorer)
    explorer.close()
    with pytest.raises(Refusal):
        say(explorer, "Are you there?", talk)
    names = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in names if name.startswith("explorer-")]
