"""The user's error type and the hints at the end of its messages."""

from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError, did_you_mean

words = st.lists(st.text(st.characters(codec="ascii", categories=["L"]), min_size=3), min_size=1)


def test_a_user_error_is_no_value_error() -> None:
    assert not issubclass(UserError, ValueError)


def test_a_user_error_is_one_line_in_a_notebook() -> None:
    assert UserError("what, value, rule")._render_traceback_() == ["sdlms: what, value, rule"]


def test_close_words_are_suggested_and_distant_ones_listed() -> None:
    assert did_you_mean("treshold", ["threshold", "seed"]) == " Did you mean 'threshold'?"
    assert did_you_mean("zzz", ["threshold", "seed"]) == " Known: threshold, seed."


def test_dashes_and_capitals_do_not_hide_a_word() -> None:
    assert did_you_mean("max-tokens", ["max_tokens"]) == " Did you mean 'max_tokens'?"
    assert did_you_mean("MLP_ACT", ["mlp_act", "resid_pre"]) == " Did you mean 'mlp_act'?"


def test_there_is_no_hint_where_nothing_is_known() -> None:
    assert did_you_mean("x", []) == ""


@given(words, st.data())
def test_a_known_word_is_its_own_suggestion(known: list[str], data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(known))
    assert did_you_mean(word, known) == f" Did you mean '{word}'?"
