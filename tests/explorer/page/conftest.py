"""A browser, an explorer and a conversation for the tests of the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser

from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import write_tuned
from sdlms.models.inputs import read_model
from sdlms.models.recorded import model_record
from tests.explorer.browser import FIRST, SECOND, WIDE, Explorer, Server, launched

MODEL = "sdlms-small"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="package")
def tuned_lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random translators for the model that the server explores."""
    source, config = read_model(MODEL, None)
    n_layers, width = config.num_hidden_layers, config.hidden_size
    generator = torch.Generator().manual_seed(0)
    shape = (n_layers, width)
    weight = torch.randn(*shape, width, generator=generator) / width
    tuned = Tuned(weight, torch.randn(shape, generator=generator))
    folder = tmp_path_factory.mktemp("lens") / "tuned_lens"
    write_tuned(folder, tuned, model_record(source, config))
    return folder


@pytest.fixture(scope="package")
def server(
    browser: Browser, tuned_lens: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The one server of these tests; a browser is looked for first."""
    folder = tmp_path_factory.mktemp("explore")
    started = Server(folder, MODEL, tuned_lens)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def explorer(browser: Browser, server: Server) -> Iterator[Explorer]:
    """A page of its own for each test, which must have done nothing wrong at the end."""
    with browser.new_context(viewport=WIDE) as context:
        explorer = Explorer(context.new_page(), server)
        yield explorer
        assert explorer.watch.complaints() == []


@pytest.fixture(scope="package")
def two_turns(server: Server) -> dict[str, Any]:
    """A conversation of two turns, as the server describes it."""
    first = server.say(FIRST)
    server.say(SECOND, conversation_id=first["conversation_id"])
    return server.get(f"api/conversations/{first['conversation_id']}")
