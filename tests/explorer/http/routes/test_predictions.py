"""What the model would say, over HTTP."""

import json
import math
from pathlib import Path
from threading import Event
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from sdlms.explorer.http.server import create_app
from sdlms.models.attention_rows import AttentionReading
from tests.explorer.http_server import ask, served, wait_until
from tests.explorer.small import small_explorer


@pytest.fixture(scope="module")
def address(reply: Any) -> str:
    last = (reply["userTokens"] + reply["tokens"])[-2]["position"]
    return f"/api/activations/{reply['conversation_id']}/{last}"


def test_a_click_has_the_context_and_every_state_from_the_final_one_on(
    client: TestClient, address: str
) -> None:
    panel = client.get(address).json()
    position = int(address.rpartition("/")[2])
    assert panel["positions"] == list(range(max(0, position - 15), position + 1))
    assert [state["index"] for state in panel["states"]] == list(range(panel["n_states"]))[::-1]
    for state in panel["states"]:
        assert len(state["cells"]) == len(panel["positions"])
        for cell in state["cells"]:
            shares = [each["probability"] for each in cell["top"]]
            assert shares == sorted(shares, reverse=True)
            assert all(
                math.isclose(each["percent"], 100 * each["probability"]) for each in cell["top"]
            )
    assert all(cell["kl_nats"] == pytest.approx(0) for cell in panel["states"][0]["cells"])


def test_lines_say_the_same_as_the_whole(client: TestClient, address: str) -> None:
    whole = client.get(f"{address}?pins=3,4").json()
    header, *states = map(
        json.loads, client.get(f"{address}?pins=3,4&stream=true").text.splitlines()
    )
    assert states == whole["states"]
    names = set(whole) - {"states", "source"}
    assert {name: header[name] for name in names} == {name: whole[name] for name in names}


def test_what_is_asked_for_is_what_comes(client: TestClient, address: str) -> None:
    few = client.get(f"{address}?context_size=2&layers=-1,1&pins=7").json()
    assert len(few["positions"]) == 3
    assert [state["layer"] for state in few["states"]] == [1, -1]
    for state in few["states"]:
        for cell in state["cells"]:
            assert [pin["token_id"] for pin in cell["pins"]] == [7]
    alone = client.get(f"{address}?include_context=false").json()
    assert len(alone["positions"]) == len(alone["tokens"]) == len(alone["decided_at"]) == 1


def test_at_the_start_the_context_is_shorter(client: TestClient, reply: Any) -> None:
    panel = client.get(f"/api/activations/{reply['conversation_id']}/0").json()
    assert panel["positions"] == [0]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("layers=99", 422),
        ("layers=-2", 422),
        ("layers=", 422),
        ("layers=a", 422),
        ("layers=1,", 422),
        ("layers=1%0a", 422),
        ("layers=9999999999", 422),
        ("lens=tuned", 422),
        ("lens=none", 422),
        ("lens=", 422),
        ("context_size=65", 422),
        ("context_size=-1", 422),
        ("context_size=a", 422),
        ("include_context=maybe", 422),
        ("pins=999999999", 422),
        ("pins=-1", 422),
        ("pins=" + ",".join(["1"] * 17), 422),
        ("stream=2", 422),
        ("top_k=3", 422),
    ],
)
def test_what_there_is_not_cannot_be_shown(
    client: TestClient, address: str, query: str, status: int
) -> None:
    response = client.get(f"{address}?{query}")
    assert response.status_code == status, response.text
    assert list(response.json()) == ["detail"]


@pytest.mark.parametrize("position", ["99999", "-1", "a", "1.5", "99999999999999999999"])
def test_a_position_that_is_none_is_not_found(
    client: TestClient, reply: Any, position: str
) -> None:
    for kind in ("activations", "attention"):
        response = client.get(f"/api/{kind}/{reply['conversation_id']}/{position}")
        assert response.status_code == 404


def test_attention_is_a_distribution_per_head(client: TestClient, reply: Any) -> None:
    found = client.get(f"/api/attention/{reply['conversation_id']}/5?layers=0,1").json()
    assert found["positions"] == list(range(6))
    assert [each["layer"] for each in found["layers"]] == [0, 1]
    for layer in found["layers"]:
        for weights in layer["heads"]:
            assert math.fsum(weights) == pytest.approx(1, abs=1e-4)
    wrong = client.get(f"/api/attention/{reply['conversation_id']}/5?layers=-1")
    assert wrong.status_code == 422


def test_a_search_finds_what_a_click_shows(client: TestClient, address: str, reply: Any) -> None:
    panel = client.get(address).json()
    top = panel["states"][0]["cells"][-1]["top"][0]
    query = f"token_id={top['token_id']}&least=0&limit=1000"
    matches = client.get(f"/api/search/{reply['conversation_id']}?{query}").json()["matches"]
    shown = {"position": panel["position"], "state": panel["n_states"] - 1}
    assert [m["rank"] for m in matches if shown.items() <= m.items()] == [1]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("text=a&token_id=1", 400),
        ("text=", 400),
        ("text=several+words+here", 400),
        ("token_id=-1", 422),
        ("token_id=99999999", 422),
        ("token_id=1&least=2", 422),
        ("token_id=1&least=nan", 422),
        ("token_id=1&limit=0", 422),
        ("token_id=1&layer=77", 422),
        ("token_id=1&lens=tuned", 422),
    ],
)
def test_a_search_for_nothing_is_refused(
    client: TestClient, reply: Any, query: str, status: int
) -> None:
    response = client.get(f"/api/search/{reply['conversation_id']}?{query}")
    assert response.status_code == status, response.text


def test_an_overview_has_every_position(client: TestClient, reply: Any) -> None:
    found = client.get(f"/api/overview/{reply['conversation_id']}").json()
    n_tokens = len(reply["userTokens"]) + len(reply["tokens"])
    assert found["positions"] == list(range(n_tokens))
    assert len(found["decided_at"]) == len(found["final_probability"]) == n_tokens
    wrong = client.get(f"/api/overview/{reply['conversation_id']}?lens=tuned")
    assert wrong.status_code == 422


def test_tokens_are_named_by_text_or_by_id(client: TestClient) -> None:
    tokens = client.get("/api/tokens", params={"text": "two plus"}).json()["tokens"]
    assert tokens and "".join(token["text"] for token in tokens) == "two plus"
    again = client.get(f"/api/tokens?token_id={tokens[0]['token_id']}").json()["tokens"]
    assert again == tokens[:1]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("text=", 400),
        ("text=a&token_id=1", 400),
        ("token_id=99999999", 422),
        ("token_id=a", 422),
        ("text=" + "a" * 1_001, 413),
    ],
)
def test_no_token_is_refused(client: TestClient, query: str, status: int) -> None:
    assert client.get(f"/api/tokens?{query}").status_code == status


def test_attention_that_nobody_waits_for_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = Event(), Event()
    n_begun = 0
    read_piece = AttentionReading.read_piece

    def held(reading: AttentionReading) -> None:
        nonlocal n_begun
        n_begun += 1
        begun.set()
        wait_until(goes_on)
        read_piece(reading)

    monkeypatch.setattr(AttentionReading, "read_piece", held)
    explorer = small_explorer(tmp_path)
    try:
        with served(create_app(explorer)) as host:
            body = {"text": "What is two plus two?", "max_new_tokens": 4}
            said = httpx.post(f"http://{host}/api/chat", json=body, timeout=60).json()
            path = f"/api/attention/{said['conversation_id']}/9"
            first = ask(host, path)
            wait_until(begun)
            for caller in [ask(host, path) for _ in range(80)]:  # more than there are threads
                caller.close()
            assert httpx.get(f"http://{host}/api/health", timeout=30).status_code == 200
            first.close()
            goes_on.set()
            found = httpx.get(f"http://{host}{path}", timeout=60).json()
            assert found["positions"] == list(range(10))
    finally:
        explorer.close()
    assert n_begun == 2  # of the first, and of the one that was waited for
