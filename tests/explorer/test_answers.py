"""Clicks: what is shown is what a plain forward of the same ids gives."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch

from sdlms.explorer.questions import Question
from sdlms.explorer.refusals import NotFound, OutOfRange
from sdlms.explorer.service import Explorer
from sdlms.explorer.settings import ExplorerSettings
from sdlms.lens.rows import LensRows
from sdlms.lens.tuned import Tuned
from sdlms.models.unembedding import logits_of
from tests.explorer.explorers import (
    click,
    core_of,
    half_model,
    n_tokens_of,
    opened_of,
    panels,
    plain_probabilities,
    running,
    say,
    small_model,
    tiny_model,
    two_turns,
)

QUESTIONS = [
    *("Tell me a story about a dog.", "What is two plus two?", "Where do penguins live?"),
    *("Name three colours of the rainbow.", "Who are you?", "Why is the sky blue?"),
    *("How does a bicycle work?", "Write a poem.", "What should I eat?", "Describe Paris."),
]
FAMILIES = ["gpt2", "gemma2", "llama", "opt-projected", "gpt_neox-parallel"]


def assert_plain(explorer: Explorer, talk: str, position: int) -> None:
    """Every cell of a click equals the full softmax of a plain forward."""
    conversation = opened_of(explorer, talk).conversation
    header, states = click(explorer, talk, position)
    for at, place in enumerate(header["positions"]):
        ids = [conversation.tokens[p].id for p in conversation.seen(place)]
        expected = plain_probabilities(core_of(explorer).loaded, ids)
        for state, own in zip(states, expected, strict=True):
            cell = state["cells"][at]
            top = [each["token_id"] for each in cell["top"]]
            shown = torch.tensor([each["probability"] for each in cell["top"]])
            torch.testing.assert_close(shown, own[top], atol=1e-4, rtol=0)
            torch.testing.assert_close(shown, own.topk(len(top)).values, atol=1e-4, rtol=0)
            assert [each["rank"] for each in cell["top"]] == list(range(1, len(top) + 1))
            surprise = -(own * own.clamp_min(1e-38).log()).sum()
            assert cell["entropy_nats"] == pytest.approx(float(surprise), abs=2e-3)
            if place + 1 < conversation.n_tokens:
                following = conversation.tokens[place + 1].id
                assert cell["next"]["token_id"] == following
                assert cell["next"]["probability"] == pytest.approx(float(own[following]), abs=1e-4)
            else:
                assert cell["next"] is None


def test_context_across_the_boundary_is_what_a_plain_forward_gives(
    explorer: Explorer, talk: str
) -> None:
    tokens = explorer.conversation(talk)["tokens"]
    second = next(t["position"] for t in tokens if t["message_index"] == 2)
    header, _ = click(explorer, talk, second + 3)
    assert {token["message_index"] for token in header["tokens"]} >= {1, 2}
    assert_plain(explorer, talk, second + 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_show_what_a_plain_forward_gives(name: str) -> None:
    with running(tiny_model(name)) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        assert_plain(explorer, talk, n_tokens_of(explorer, talk) - 1)


@pytest.mark.parametrize(
    ("name", "unembed"),
    # Capped logits have the one way only.
    [("sdlms-medium", "float32"), ("sdlms-medium", "bfloat16"), ("gemma2", "float32")],
)
def test_greedy_tokens_are_the_final_first_guesses_in_16_bits(
    name: str, unembed: Literal["float32", "bfloat16"]
) -> None:
    n_drawn = 0
    with running(half_model(name), settings=ExplorerSettings(unembed=unembed)) as explorer:
        for text in QUESTIONS:
            done = say(explorer, text, max_new_tokens=40)
            assert explorer.wait_until_filled(30)
            drawn = [token["position"] for token in done["tokens"]]
            n_drawn += len(drawn)
            for last in {*drawn[::60], drawn[-1]}:
                header, states = click(
                    explorer, done["conversation_id"], last - 1, context_size=min(59, last - 1)
                )
                for position, cell in zip(header["positions"], states[-1]["cells"], strict=True):
                    if position + 1 in drawn:
                        assert cell["next"]["rank"] == 1
                        assert cell["next"]["token_id"] == cell["top"][0]["token_id"]
    assert n_drawn >= 100


def test_header_names_what_is_shown(explorer: Explorer, talk: str) -> None:
    header, states = click(explorer, talk, 20)
    assert header["positions"] == list(range(5, 21))
    assert [token["position"] for token in header["tokens"]] == header["positions"]
    assert header["n_states"] == len(states) == 4
    assert (header["source"], header["recomputed"]) == ("memory", False)
    assert [state["layer"] for state in states] == [-1, 0, 1, 2]
    assert states[0]["name"] == "embedding"


def test_decided_is_the_first_layer_that_keeps_the_final_prediction(
    explorer: Explorer, talk: str
) -> None:
    header, states = click(explorer, talk, 20)
    for at, decided in enumerate(header["decided_at"]):
        tops = [state["cells"][at]["top"][0]["token_id"] for state in states]
        assert all(top == tops[-1] for top in tops[decided + 1 :])
        assert decided == -1 or tops[decided] != tops[-1]


def test_near_the_beginning_the_context_is_shorter(explorer: Explorer, talk: str) -> None:
    assert click(explorer, talk, 2)[0]["positions"] == [0, 1, 2]
    assert click(explorer, talk, 9, include_context=False)[0]["positions"] == [9]
    assert click(explorer, talk, 9, context_size=1)[0]["positions"] == [8, 9]


def test_the_final_state_comes_first_and_layers_choose(explorer: Explorer, talk: str) -> None:
    lines = list(explorer.activations(talk, 9, Question(layers=[-1, 1])))
    assert [line["layer"] for line in lines[1:]] == [1, -1]


def test_pins_are_what_a_full_row_says(explorer: Explorer, talk: str) -> None:
    loaded = core_of(explorer).loaded
    pins = [7, 3071, 300]
    conversation = opened_of(explorer, talk).conversation
    _, states = click(explorer, talk, 12, layers=[-1, 1], pins=pins)
    for at, place in enumerate(range(13)):
        ids = [conversation.tokens[p].id for p in conversation.seen(place)]
        expected = plain_probabilities(loaded, ids)[[0, 2]]
        for state, own in zip(states, expected, strict=True):
            for pin, shown in zip(pins, state["cells"][at]["pins"], strict=True):
                assert shown["token_id"] == pin
                # Stored states are float16.
                assert shown["probability"] == pytest.approx(float(own[pin]), rel=0.05, abs=1e-4)
                n_above = [int((own > own[pin] * factor).sum()) for factor in (1.05, 1 / 1.05)]
                assert n_above[0] <= shown["rank"] - 1 <= n_above[1]


def test_the_last_token_is_computed_until_something_follows_it(explorer: Explorer) -> None:
    talk = two_turns(explorer)
    last = n_tokens_of(explorer, talk) - 1
    for _ in range(2):
        header, states = click(explorer, talk, last, context_size=0)
        assert (header["source"], header["recomputed"]) == ("computed", False)
        assert states[-1]["cells"][0]["next"] is None


def test_unfilled_rows_are_computed_at_the_click_and_then_stored() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        with core.computer.generating():  # holds the worker up
            talk = two_turns(explorer)
            assert explorer.status()["unfilled_tokens"] == n_tokens_of(explorer, talk) - 1
            first, states = click(explorer, talk, 9)
            again, stored = click(explorer, talk, 9)
        assert (first["source"], again["source"]) == ("computed", "memory")
        assert not first["recomputed"]
        assert states == stored


def test_the_clicked_row_comes_before_its_context_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(small_model(), settings=ExplorerSettings(fill_rows=12)) as explorer:
        core, measured = core_of(explorer), []
        measure = core.measure

        def noted(lens: str, hidden: np.ndarray, *asked: object) -> LensRows:  # type: ignore[type-arg]
            measured.append(len(hidden))
            return measure(lens, hidden, *asked)

        monkeypatch.setattr(core, "measure", noted)
        with core.computer.generating():  # holds the worker up
            talk = two_turns(explorer)
            for position in (20, n_tokens_of(explorer, talk) - 1):
                measured.clear()
                lines = explorer.activations(talk, position, Question(context_size=7))
                assert next(lines)["positions"] == [position]
                assert measured == [1]
                lines.close()
                # What is left is measured in pieces of 12 rows: others have their turn between.
                (alone, *states), (whole, *final) = panels(explorer, talk, position, context_size=7)
                is_last = position == n_tokens_of(explorer, talk) - 1
                assert measured == [1, *([1] if is_last else []), 3, 3, 1]  # none twice
                assert whole["positions"] == list(range(position - 7, position + 1))
                for key in ("tokens", "decided_at"):
                    assert alone[key] == whole[key][-1:]
                assert [s["cells"] for s in states] == [s["cells"][-1:] for s in final]
                assert len(panels(explorer, talk, position, context_size=7)) == 1


def test_a_tuned_lens_translates_each_state_first() -> None:
    loaded = small_model()
    generator = torch.Generator().manual_seed(0)
    tuned = Tuned(
        torch.randn(3, 48, 48, generator=generator) / 20,
        torch.randn(3, 48, generator=generator) / 5,
    )
    with running(loaded, tuned=tuned) as explorer:
        assert explorer.info()["lenses"] == ["logit", "tuned"]
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        header, states = click(explorer, talk, 12, lens="tuned", context_size=0)
        assert header["source"] == "memory"
        _, plain = click(explorer, talk, 12, lens="logit", context_size=0)
        likeliest = states[1]["cells"][0]["top"][0]
        _, pinned = click(
            explorer, talk, 12, lens="tuned", layers=[0], pins=[likeliest["token_id"]]
        )
        pin = pinned[0]["cells"][-1]["pins"][0]
        assert pin["rank"] == 1
        assert pin["probability"] == pytest.approx(likeliest["probability"], rel=0.02)
    tokens = opened_of(explorer, talk).conversation.tokens[:13]
    with torch.no_grad():
        read = loaded.model(torch.tensor([[t.id for t in tokens]]), output_hidden_states=True)
        for n in range(3):
            own = read.hidden_states[n][0, -1]
            moved = own + own @ tuned.weight[n].T + tuned.bias[n]
            expected = logits_of(loaded.model, moved).softmax(-1)
            top = states[n]["cells"][0]["top"]
            shown = torch.tensor([each["probability"] for each in top])
            torch.testing.assert_close(shown, expected.topk(10).values, atol=1e-4, rtol=0)
    assert states[-1] == plain[-1]
    assert states[0] != plain[0]


@pytest.mark.parametrize(
    ("wishes", "refusal"),
    [
        ({"layers": [3]}, OutOfRange),
        ({"layers": [-2]}, OutOfRange),
        ({"layers": []}, OutOfRange),
        ({"lens": "tuned"}, OutOfRange),
        ({"lens": "<img>"}, OutOfRange),
        ({"context_size": 65}, OutOfRange),
        ({"context_size": -1}, OutOfRange),
        ({"pins": [3072]}, OutOfRange),
        ({"pins": [-1]}, OutOfRange),
        ({"pins": [1] * 17}, OutOfRange),
    ],
)
def test_wrong_questions_are_refused(
    explorer: Explorer, talk: str, wishes: dict[str, object], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal) as refused:
        click(explorer, talk, 3, **wishes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("position", [-1, 10_000])
def test_unknown_positions_are_refused(explorer: Explorer, talk: str, position: int) -> None:
    with pytest.raises(NotFound):
        click(explorer, talk, position)


def test_arrays_hold_no_numpy_numbers(explorer: Explorer, talk: str) -> None:
    def leaves(value: object) -> Iterator[object]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from leaves(each)
        else:
            yield value

    header, states = click(explorer, talk, 12, pins=[5])
    assert not [leaf for leaf in leaves([header, states]) if isinstance(leaf, np.generic)]
