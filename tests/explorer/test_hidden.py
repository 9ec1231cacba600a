"""Hidden states: those that wait, those that are stored, and those that are computed again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch

from sdlms.explorer import hidden
from sdlms.explorer.core import HIDDEN
from sdlms.explorer.hidden import hidden_of
from sdlms.explorer.loaded import LoadedModel
from sdlms.explorer.prompting import prompting_of
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import GivenUp
from sdlms.explorer.service import Explorer
from sdlms.lens.residuals import residuals
from sdlms.lens.states import states_of
from sdlms.models.architectures import n_layers
from sdlms.models.chat import Message
from sdlms.models.generating import Decoder, Step
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
    tiny_model,
    two_turns,
)
from tests.explorer.toy_tokenizers import CHATML, tiny_neox, with_template


def plain_states(explorer: Explorer, talk: str, position: int) -> torch.Tensor:
    """`[state, d_model]` of a forward of what the model had read."""
    core, conversation = core_of(explorer), opened_of(explorer, talk).conversation
    ids = [conversation.tokens[p].id for p in conversation.seen(position)]
    layers = n_layers(core.loaded.config)
    with residuals(core.loaded.model, states_of(layers, range(layers))) as recorded:
        return recorded.run(torch.tensor([ids]))[0, -1]


def forget(explorer: Explorer, talk: str) -> None:
    """Nothing of the conversation's rows is there any more."""
    core_of(explorer).waiting.forget(talk)
    core_of(explorer).cache.truncate(talk, 0)


def assert_plain(explorer: Explorer, talk: str, positions: list[int], rtol: float) -> bool:
    """What `hidden_of` gives is what a forward gives; whether it was computed again."""
    found = hidden_of(core_of(explorer), opened_of(explorer, talk), positions)
    for own, position in zip(found.states, positions, strict=True):
        plain = plain_states(explorer, talk, position)
        scale = float(plain.abs().max())
        torch.testing.assert_close(torch.from_numpy(own), plain, atol=rtol * scale, rtol=0)
    return found.again


def test_waiting_stored_and_computed_states_are_those_of_a_forward() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        positions = [0, 3, 4, n_tokens_of(explorer, talk) - 1]
        core = core_of(explorer)
        with core.computer.generating():  # nothing is filled, so that all still wait
            waiting = say(explorer, "And now?", talk)["tokens"][0]["position"]
            assert core.waiting.get(talk, waiting) is not None
            assert not assert_plain(explorer, talk, [waiting], 1e-5)
        assert explorer.wait_until_filled(30)
        core.waiting.forget(talk)
        assert not assert_plain(explorer, talk, positions, 1e-3)  # float16
        forget(explorer, talk)
        assert assert_plain(explorer, talk, positions, 1e-5)


def test_a_row_that_is_computed_again_equals_the_first_one() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        _, first = click(explorer, talk, 20)
        core_of(explorer).waiting.forget(talk)
        # Only the rows are gone: from float16 states.
        for lens in core_of(explorer).lenses:
            core_of(explorer).cache.truncate(talk, 0, lens)
        header, from_half = click(explorer, talk, 20)
        assert (header["source"], header["recomputed"]) == ("computed", False)
        forget(explorer, talk)
        header, anew = click(explorer, talk, 20)
        assert (header["source"], header["recomputed"]) == ("computed", True)
        assert largest_difference(first, anew) < 1e-4
        assert largest_difference(first, from_half) < 2e-3


def largest_difference(found: list[dict], expected: list[dict]) -> float:  # type: ignore[type-arg]
    """Between probabilities of the same rank."""

    def shares(states: list[dict]) -> np.ndarray:  # type: ignore[type-arg]
        return np.array(
            [[[t["probability"] for t in c["top"]] for c in s["cells"]] for s in states]
        )

    return float(np.abs(shares(found) - shares(expected)).max())


def test_what_is_computed_for_one_click_is_there_for_the_next() -> None:
    loaded = small_model()
    with running(loaded) as explorer:
        talk = two_turns(explorer)
        forget(explorer, talk)
        with counted_forwards(loaded) as read:
            click(explorer, talk, 9, context_size=0)
            n_read = sum(read)
            click(explorer, talk, 8, context_size=3)
        assert sum(read) == n_read == 10


def test_many_who_wait_for_one_text_have_it_read_once() -> None:
    loaded = small_model()
    with running(loaded) as explorer:
        talk = two_turns(explorer)
        forget(explorer, talk)
        with counted_forwards(loaded) as read, ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: click(explorer, talk, 9), range(8)))
        assert sum(read) == 10
        # Who came second has it from what was stored, in 16 bits.
        assert all(largest_difference(states, answers[0][1]) < 2e-3 for _, states in answers)


def test_a_text_that_nobody_waits_for_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hidden, "PIECE_TOKENS", 4)
    loaded, given_up = small_model(), Event()
    extend = Decoder.extend

    def extended(decoder: Decoder, ids: Sequence[int]) -> Step:
        given_up.set()
        return extend(decoder, ids)

    with running(loaded) as explorer:
        talk = two_turns(explorer)
        core, opened = core_of(explorer), opened_of(explorer, talk)
        kept = hidden_of(core, opened, [9]).states
        forget(explorer, talk)
        monkeypatch.setattr(Decoder, "extend", extended)
        with counted_forwards(loaded) as read, pytest.raises(GivenUp):
            hidden_of(core, opened, [9], given_up=given_up)
        assert sum(read) == 4
        again = hidden_of(core, opened, [9]).states  # nobody else is held up
        np.testing.assert_allclose(again, kept, atol=2e-3 * np.abs(kept).max(), rtol=0)
        hidden_of(core, opened, [9], given_up=given_up)  # what is there costs nothing


def test_each_token_is_computed_from_what_the_model_saw_when_it_read_it() -> None:
    loaded = tiny_model("gpt_neox-parallel", 64)
    with running(loaded) as explorer:
        talk = say(explorer, "What is the first thing to say?")["conversation_id"]
        for n in range(4):
            say(explorer, f"Question number {n}, is it?", talk)
        assert explorer.wait_until_filled(30)
        last = n_tokens_of(explorer, talk) - 1
        conversation = opened_of(explorer, talk).conversation
        assert conversation.seen(last)[0] > 0  # the oldest messages have left
        positions = [5, *range(last - 20, last + 1)]
        before = hidden_of(core_of(explorer), opened_of(explorer, talk), positions).states
        forget(explorer, talk)
        assert assert_plain(explorer, talk, positions, 1e-5)
        after = hidden_of(core_of(explorer), opened_of(explorer, talk), positions).states
        scale = np.abs(before).max()
        np.testing.assert_allclose(after, before, atol=2e-3 * scale, rtol=0)


def test_messages_that_never_fitted_can_be_clicked() -> None:
    loaded = tiny_model("gpt_neox-parallel", 64)
    messages = []
    for n in range(6):
        messages += [
            Message(role="user", content=f"Question number {n}, is it?"),
            Message(role="assistant", content="It is so."),
        ]
    with running(loaded) as explorer:
        request = ChatRequest(
            text="And now?", messages=messages, sampling=Sampling(max_new_tokens=8)
        )
        events = list(explorer.chat(request))
        talk = events[0]["conversation_id"]
        assert events[0]["left_positions"]
        assert explorer.wait_until_filled(30)
        header, _ = click(explorer, talk, events[0]["left_positions"][-1])
        assert (header["source"], header["recomputed"]) == ("computed", False)
        read = events[-1]["tokens"][0]["position"]
        assert click(explorer, talk, read, context_size=2)[0]["source"] == "memory"


def test_only_the_states_that_are_asked_for_come() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        core, opened = core_of(explorer), opened_of(explorer, talk)
        whole = hidden_of(core, opened, [3, 4]).states
        np.testing.assert_array_equal(
            hidden_of(core, opened, [3, 4], [1, 3]).states, whole[:, [1, 3]]
        )


@pytest.mark.slow  # 3 s
def test_ten_thousand_tokens() -> None:
    tokenizer = with_template("byte-level", CHATML)  # a token per letter, and few tokens
    model = tiny_neox(len(tokenizer), 16_384)
    loaded = LoadedModel(model, tokenizer, prompting_of(model, tokenizer), {"name": "tiny"})
    with running(loaded) as explorer:
        text = "so it goes on and on " * 570
        talk = say(explorer, text, max_new_tokens=20)["conversation_id"]
        n_tokens = n_tokens_of(explorer, talk)
        assert n_tokens > 10_000
        assert explorer.wait_until_filled(120)
        positions = [9_999, 17, 5_000]
        before = [click(explorer, talk, p) for p in positions]
        assert {header["source"] for header, _ in before} == {"memory"}
        forget(explorer, talk)
        for position, (_, expected) in zip(positions, before, strict=True):
            header, states = click(explorer, talk, position)
            # The first click stores what it had to read on the way.
            assert header["recomputed"] == (position == 9_999)
            assert largest_difference(states, expected) < 2e-3
        assert core_of(explorer).cache.present(talk, HIDDEN, n_tokens)[:10_000].all()
