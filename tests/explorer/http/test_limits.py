"""The HTTP server's limits are positive and cannot be changed."""

import json
from dataclasses import FrozenInstanceError, astuple

import pytest

from sdlms.explorer.http.limits import Limits
from sdlms.explorer.settings import ExplorerSettings


def test_limits_are_positive_and_frozen() -> None:
    limits = Limits()
    assert min(astuple(limits)) > 0
    with pytest.raises(FrozenInstanceError):
        limits.body_bytes = 1  # type: ignore[misc]


def test_a_body_has_room_for_the_longest_text_however_it_is_escaped() -> None:
    longest = json.dumps("\N{GRINNING FACE}" * ExplorerSettings().max_text_chars)
    assert len(longest) + 1_000 < Limits().body_bytes
