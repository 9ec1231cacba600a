"""One explorer for all tests of the routes."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from sdlms.explorer.service import Explorer
from tests.explorer.small import chat, client_of, small_explorer


@pytest.fixture(scope="session")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    """Of the smallest model."""
    explorer = small_explorer(tmp_path_factory.mktemp("explorer"))
    yield explorer
    explorer.close()


@pytest.fixture(scope="session")
def client(explorer: Explorer) -> TestClient:
    """Of its API."""
    return client_of(explorer)


@pytest.fixture(scope="session")
def reply(client: TestClient) -> Any:
    """A reply whose conversation no test changes."""
    return chat(client)
