"""The model over HTTP."""

from starlette.testclient import TestClient


def test_the_server_says_which_model_it_has(client: TestClient) -> None:
    info = client.get("/api/model_info").json()
    assert client.get("/api/health").json() == {"status": "ok", "model": "sdlms-small"}
    assert info["model_name"] == "sdlms-small"
    assert [state["index"] for state in info["states"]] == list(range(info["num_layers"] + 1))
    assert info["lenses"] == ["logit"]
