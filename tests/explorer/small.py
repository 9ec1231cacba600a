"""A real explorer of an embedded model, else the smallest, and a client of its API."""

from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient

from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.http.limits import Limits
from sdlms.explorer.http.server import create_app
from sdlms.explorer.opening import Storage, open_explorer
from sdlms.explorer.service import Explorer
from sdlms.models.loading import find_model

HOME = "http://localhost"


def small_explorer(
    folder: Path, tuned_lens: Path | None = None, model: str = "sdlms-small"
) -> Explorer:
    """An explorer in float32 on the CPU that keeps its conversations in `folder`."""
    storage = Storage(folder=folder, store_hidden="auto", limits=CacheLimits())
    source = find_model(model, None)
    return open_explorer(source, torch.float32, torch.device("cpu"), storage, tuned_lens)


def client_of(explorer: Explorer, limits: Limits | None = None, **headers: str) -> TestClient:
    """A client whose answers are what a browser would get, errors of the server among them."""
    app = create_app(explorer, limits)
    return TestClient(app, HOME, headers=headers, raise_server_exceptions=False)


def chat(client: TestClient, text: str = "What is two plus two?", **wishes: Any) -> Any:
    """One reply of a few tokens."""
    response = client.post(
        "/api/chat/with-activations", json={"text": text, "max_new_tokens": 4, **wishes}
    )
    assert response.status_code == 200, response.text
    return response.json()
