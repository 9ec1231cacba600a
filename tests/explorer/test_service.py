"""The explorer as a whole: many clients, a small memory, damaged files, a restart."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.questions import SearchQuestion
from sdlms.explorer.refusals import BadRequest, NotFound, OutOfRange, Refusal, TooLarge
from sdlms.explorer.settings import ExplorerSettings
from sdlms.lens.tuned import Tuned
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


def test_restart_answers_from_the_disk_without_the_model(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path) as explorer:
        talk = two_turns(explorer)
        explorer.update(talk, "A title", True)
        assert explorer.wait_until_filled(30)
        before = [click(explorer, talk, p)[1] for p in (3, 20)]
        shown = explorer.conversation(talk)
    with running(loaded, tmp_path) as explorer:
        (listed,) = explorer.conversations()
        assert (listed["title"], listed["persisted"]) == ("A title", True)
        assert listed["size_bytes"] > 0
        assert explorer.conversation(talk) == shown
        with counted_forwards(loaded) as read:
            header, states = click(explorer, talk, 20)
            assert (header["source"], header["recomputed"]) == ("disk", False)
            assert [click(explorer, talk, 3)[1], states] == before
            last, _ = click(explorer, talk, n_tokens_of(explorer, talk) - 1, pins=[5])
        assert not read
        assert not last["recomputed"]
        assert say(explorer, "And now?", talk)["finish"] in ("stop", "length")


def test_evicted_conversations_are_computed_again_and_flagged() -> None:
    limits = CacheLimits(memory_bytes=20_000)
    with running(small_model(), limits=limits) as explorer:
        talks = [two_turns(explorer) for _ in range(3)]
        explorer.wait_until_filled(30)
        header, states = click(explorer, talks[0], 12)
        assert header["recomputed"]
    with running(small_model()) as explorer:
        _, expected = click(explorer, two_turns(explorer), 12)
    assert_close(states, expected, 1e-4)


def test_evicted_rows_come_back_from_the_disk(tmp_path: Path) -> None:
    limits = CacheLimits(memory_bytes=20_000)
    with running(small_model(), tmp_path, limits=limits) as explorer:
        talks = [two_turns(explorer) for _ in range(3)]
        assert explorer.wait_until_filled(30)
        for talk in talks:
            header, _ = click(explorer, talk, 12)
            assert (header["source"], header["recomputed"]) == ("disk", False)


def test_a_flipped_byte_is_seen_computed_again_and_flagged(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        expected = {p: click(explorer, talk, p)[1] for p in range(0, 20)}
    (stored,) = tmp_path.rglob(f"{talk}.h5")
    content = bytearray(stored.read_bytes())
    middle = range(len(content) // 4, len(content), 997)
    for place in middle:
        content[place] ^= 0x55
    stored.chmod(0o600)
    stored.write_bytes(content)
    with running(loaded, tmp_path) as explorer:
        headers = []
        for position, states in expected.items():
            header, found = click(explorer, talk, position)
            headers.append(header)
            assert_close(found, states, 1e-3)
        assert any(header["recomputed"] for header in headers)
        # What was computed again is stored again.
        assert not click(explorer, talk, 3)[0]["recomputed"]


@pytest.mark.parametrize("store_hidden", ["none", "int8"])
def test_other_ways_to_store_hidden_states(tmp_path: Path, store_hidden: str) -> None:
    loaded = small_model()
    with running(loaded, tmp_path, store_hidden=store_hidden) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        _, before = click(explorer, talk, 20)
    with running(loaded, tmp_path, store_hidden=store_hidden) as explorer:
        header, states = click(explorer, talk, 20)
        assert (header["source"], header["recomputed"]) == ("disk", False)
        assert states == before
        pins = [state["cells"][0]["pins"][0] for state in click(explorer, talk, 20, pins=[9])[1]]
        assert all(1 <= pin["rank"] <= 3072 for pin in pins)
        last = n_tokens_of(explorer, talk) - 1
        # Nothing was lost: "none" promises no states after a restart.
        assert not click(explorer, talk, last)[0]["recomputed"]


def test_pins_agree_with_the_row_however_states_are_stored(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path, store_hidden="int8") as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
    with running(loaded, tmp_path, store_hidden="int8") as explorer:
        _, states = click(explorer, talk, 20)
        cells = [state["cells"][-1] for state in states]
        pins = list(dict.fromkeys(t["token_id"] for cell in cells for t in cell["top"]))[:12]
        pins += [cells[0]["next"]["token_id"], 9]
        _, states = click(explorer, talk, 20, pins=pins)
        for cell in (cell for state in states for cell in state["cells"]):
            stored = {t["token_id"]: t for t in cell["top"]}
            stored |= {cell["next"]["token_id"]: cell["next"]}
            for pin in cell["pins"]:
                known = stored.get(pin["token_id"])
                if known is None:
                    assert pin["rank"] >= len(cell["top"])
                    assert pin["probability"] <= cell["top"][-1]["probability"] * 1.00001
                else:
                    assert pin["rank"] == known["rank"]
                    assert pin["probability"] == pytest.approx(known["probability"], rel=1e-5)


def test_another_tuned_lens_does_not_read_the_rows_of_the_first(tmp_path: Path) -> None:
    loaded = small_model()
    lenses = [Tuned(torch.zeros(3, 48, 48), torch.full((3, 48), float(n))) for n in range(2)]
    with running(loaded, tmp_path, tuned=lenses[0]) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        _, first = click(explorer, talk, 9, lens="tuned")
    with running(loaded, tmp_path) as explorer:  # none: its rows stay
        click(explorer, talk, 9)
    with running(loaded, tmp_path, tuned=lenses[0]) as explorer:
        header, again = click(explorer, talk, 9, lens="tuned")
        assert (header["source"], again) == ("disk", first)
    with running(loaded, tmp_path, tuned=lenses[1]) as explorer:
        _, other = click(explorer, talk, 9, lens="tuned")
        assert other[0] != first[0]


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


def test_attention_rows_sum_to_one_over_what_was_read() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        found = explorer.attention(talk, 7, [2, 0])
        assert found["positions"] == list(range(8))
        assert [layer["layer"] for layer in found["layers"]] == [0, 2]
        sums = torch.tensor([layer["heads"] for layer in found["layers"]]).sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        with pytest.raises(OutOfRange):
            explorer.attention(talk, 7, [3])
        with pytest.raises(NotFound):
            explorer.attention(talk, 7_000, None)


def test_attention_that_is_no_number_is_refused() -> None:
    loaded = tiny_model("llama")
    weight = loaded.model.base_model.layers[1].self_attn.q_proj.weight
    with running(loaded) as explorer:
        talk = two_turns(explorer)
        before = weight.data.clone()
        try:
            weight.data[:] = float("inf")
            with pytest.raises(OutOfRange, match="layer 1 is not finite; start with --dtype"):
                explorer.attention(talk, 7, None)
            assert explorer.attention(talk, 7, [0])["layers"]
        finally:
            weight.data.copy_(before)


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


def assert_close(found: list[dict], expected: list[dict], atol: float) -> None:  # type: ignore[type-arg]
    """The same probabilities of the same tokens in all cells."""
    for own, other in zip(found, expected, strict=True):
        for cell, same in zip(own["cells"], other["cells"], strict=True):
            shown = torch.tensor([each["probability"] for each in cell["top"]])
            wanted = torch.tensor([each["probability"] for each in same["top"]])
            torch.testing.assert_close(shown, wanted, atol=atol, rtol=0)
            assert cell["top"][0]["token_id"] == same["top"][0]["token_id"]
            assert (cell["next"] or {}).get("token_id") == (same["next"] or {}).get("token_id")
