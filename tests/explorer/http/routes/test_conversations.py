"""Conversations over HTTP."""

import csv
import io
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.explorer.small import chat


@pytest.fixture
def own(client: TestClient) -> str:
    """A conversation that the test may change."""
    return str(chat(client)["conversation_id"])


def test_the_list_has_each_conversation_once(client: TestClient, own: str) -> None:
    listed = client.get("/api/conversations").json()
    ids = [each["conversation_id"] for each in listed]
    assert len(set(ids)) == len(ids) and own in ids
    assert listed[ids.index(own)]["n_messages"] == 2


def test_a_conversation_has_its_messages_and_tokens(client: TestClient, reply: Any) -> None:
    found = client.get(f"/api/conversations/{reply['conversation_id']}").json()
    assert found["tokens"] == reply["userTokens"] + reply["tokens"]
    assert [message["role"] for message in found["messages"]] == ["user", "assistant"]


def test_a_title_and_a_mark_change_alone_or_together(client: TestClient, own: str) -> None:
    address = f"/api/conversations/{own}"
    first = client.patch(address, json={"title": "Sums <b>&"}).json()
    assert (first["title"], first["persisted"]) == ("Sums <b>&", False)
    second = client.patch(address, json={"persisted": True}).json()
    assert (second["title"], second["persisted"]) == ("Sums <b>&", True)
    third = client.patch(address, json={"title": "a", "persisted": False}).json()
    assert third == client.get(address).json()
    assert (third["title"], third["persisted"]) == ("a", False)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 400),
        ({"title": None}, 400),
        ({"title": ""}, 400),
        ({"title": " "}, 400),
        ({"title": "a" * 201}, 413),
        ({"persisted": "yes"}, 400),
        ({"id": "a"}, 400),
    ],
)
def test_a_change_that_is_none_is_refused(
    client: TestClient, own: str, change: dict[str, Any], status: int
) -> None:
    assert client.patch(f"/api/conversations/{own}", json=change).status_code == status


def test_what_is_deleted_is_gone_everywhere(client: TestClient, own: str) -> None:
    response = client.delete(f"/api/cache/{own}")
    assert (response.status_code, response.content) == (204, b"")
    assert own not in {each["conversation_id"] for each in client.get("/api/conversations").json()}
    for address in (f"conversations/{own}", f"activations/{own}/0", f"export/{own}"):
        assert client.get(f"/api/{address}").status_code == 404
    assert client.delete(f"/api/cache/{own}").status_code == 404


@pytest.mark.parametrize(
    "name",
    ["unknown", "a" * 65, "..", "%2e%2e%2fetc", "a.b", "a%00b", "%20", "é", "a%0a", ".key"],
)
def test_an_id_that_is_none_is_not_found(client: TestClient, name: str) -> None:
    for method, address in (
        ("GET", "conversations/{}"),
        ("GET", "activations/{}/0"),
        ("GET", "attention/{}/0"),
        ("GET", "search/{}?token_id=1"),
        ("GET", "overview/{}"),
        ("GET", "export/{}"),
        ("DELETE", "cache/{}"),
    ):
        response = client.request(method, f"/api/{address.format(name)}")
        assert response.status_code == 404, (method, address, response.text)
        assert list(response.json()) == ["detail"]
    response = client.patch(f"/api/conversations/{name}", json={"title": "a"})
    assert response.status_code == 404


def test_files_are_saved_under_a_name_of_their_kind(client: TestClient, reply: Any) -> None:
    found = reply["conversation_id"]
    for kind, media in (("json", "application/json"), ("csv", "text/csv"), ("html", "text/html")):
        response = client.get(f"/api/export/{found}?format={kind}")
        assert response.headers["content-type"].startswith(media)
        name = f'attachment; filename="{found}.{kind}"'
        assert response.headers["content-disposition"] == name
    assert client.get(f"/api/export/{found}").json()
    rows = list(csv.reader(io.StringIO(client.get(f"/api/export/{found}?format=csv").text)))
    assert len(rows) > 1 and len({len(row) for row in rows}) == 1
    assert client.get(f"/api/export/{found}?format=pdf").status_code == 422


def test_the_html_file_asks_nobody_for_anything(client: TestClient, reply: Any) -> None:
    text = client.get(f"/api/export/{reply['conversation_id']}?format=html").text
    assert not re.search(r"(?:src|href|action)\s*=|url\(|https?://(?!www\.w3\.org)|import", text)


def test_the_status_says_how_full_the_cache_is(client: TestClient, reply: Any) -> None:
    status = client.get("/api/cache/status").json()
    assert 0 < status["memory_used_mb"] < status["memory_limit_mb"]
    assert (status["memory_limit_mb"], status["disk_limit_mb"]) == (1_000, 10_000)
    assert status["memory_only"] is False
