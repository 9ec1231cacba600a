"""The table of lenses."""

from typing import get_args

from sdlms.lens.kinds import KINDS, NAMES, LensName, Need, lenses_with


def test_every_name_is_a_row_and_every_need_is_known() -> None:
    assert get_args(LensName) == NAMES
    assert {kind.needs for kind in KINDS} == set(get_args(Need))


def test_what_is_there_says_which_lenses_are() -> None:
    assert lenses_with() == ("logit",)
    assert lenses_with("translators") == NAMES
