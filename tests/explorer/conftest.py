"""An explorer with a conversation whose rows are filled; the tests of a file share it."""

from collections.abc import Iterator

import pytest

from sdlms.explorer.service import Explorer
from tests.explorer.explorers import explorer_of, small_model, two_turns


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    opened = explorer_of(small_model())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def talk(explorer: Explorer) -> str:
    conversation_id = two_turns(explorer)
    assert explorer.wait_until_filled(30)
    return conversation_id
