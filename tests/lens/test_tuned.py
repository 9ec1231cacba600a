"""Translators: identity at zero, the affine map by hand, which states have one."""

import pytest
import torch
from torch import nn

from sdlms.lens.states import State, states_of
from sdlms.lens.tuned import Tuned, translators_of


def random_lens(n_layers: int, d_model: int, seed: int = 0) -> Tuned:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_layers, d_model, d_model, generator=generator)
    return Tuned(weight, torch.randn(n_layers, d_model, generator=generator))


def test_a_lens_of_zeros_changes_nothing() -> None:
    resid = torch.randn(5, 4, 6)
    lens = Tuned(torch.zeros(3, 6, 6), torch.zeros(3, 6))
    assert torch.equal(lens.translate(resid, states_of(3, range(3))), resid)


def test_each_state_is_translated_as_the_published_form_says() -> None:
    lens, resid = random_lens(3, 6), torch.randn(5, 4, 6)
    translated = lens.translate(resid, states_of(3, range(3)))
    for number in range(3):
        layer = nn.Linear(6, 6)
        layer.load_state_dict({"weight": lens.weight[number], "bias": lens.bias[number]})
        wanted = resid[:, number] + layer(resid[:, number])
        torch.testing.assert_close(translated[:, number], wanted.detach())
    assert torch.equal(translated[:, 3], resid[:, 3])


def test_some_states_are_translated_as_among_all() -> None:
    lens, resid = random_lens(4, 6), torch.randn(5, 5, 6)
    states = states_of(4, range(4))
    whole = lens.translate(resid, states)
    some = [0, 2, 4]
    own = lens.translate(resid[:, some], [states[place] for place in some])
    torch.testing.assert_close(own, whole[:, some])


def test_the_argument_stays_as_it_was() -> None:
    resid = torch.randn(2, 3, 4)
    before = resid.clone()
    random_lens(2, 4).translate(resid, states_of(2, range(2)))
    assert torch.equal(resid, before)


@pytest.mark.parametrize(
    "state", [State("resid_mid", 0), State("resid_post", 2), State("resid_pre", 1)]
)
def test_a_state_without_translator_is_our_bug(state: State) -> None:
    with pytest.raises(ValueError, match="no translator"):
        random_lens(2, 4).translator_of(state)


def test_float16_states_are_translated_in_float32() -> None:
    lens, resid = random_lens(2, 4), torch.randn(3, 3, 4).half()
    translated = lens.to(torch.device("cpu")).translate(resid, states_of(2, range(2)))
    assert translated.dtype == torch.float32
    torch.testing.assert_close(translated, lens.translate(resid.float(), states_of(2, range(2))))


def test_translators_go_before_the_lenses_that_need_them() -> None:
    tuned = Tuned(torch.zeros(2, 3, 3), torch.zeros(2, 3))
    assert translators_of(None) == {"logit": None}
    assert list(translators_of(tuned)) == ["logit", "tuned"]
    assert translators_of(tuned)["logit"] is None and translators_of(tuned)["tuned"] is tuned
