"""What OpenAPI says of the routes."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from sdlms.explorer.http.answer_schemas import Health
from sdlms.explorer.http.routes.describing import EVERYWHERE, MEANINGS, answers


@pytest.fixture(scope="module")
def described(client: TestClient) -> Any:
    return client.get("/openapi.json").json()


def test_every_route_is_described(client: TestClient, described: Any) -> None:
    routes = {
        (method, path) for path, operations in described["paths"].items() for method in operations
    }
    assert routes == {
        ("get", "/"),
        ("get", "/favicon.ico"),
        ("get", "/static/{name}"),
        ("get", "/api/health"),
        ("get", "/api/model_info"),
        ("post", "/api/chat"),
        ("post", "/api/chat/with-activations"),
        ("post", "/api/conversations/{conversation_id}/regenerate"),
        ("get", "/api/conversations"),
        ("get", "/api/conversations/{conversation_id}"),
        ("patch", "/api/conversations/{conversation_id}"),
        ("get", "/api/activations/{conversation_id}/{position}"),
        ("get", "/api/attention/{conversation_id}/{position}"),
        ("get", "/api/search/{conversation_id}"),
        ("get", "/api/overview/{conversation_id}"),
        ("get", "/api/tokens"),
        ("get", "/api/export/{conversation_id}"),
        ("delete", "/api/cache/{conversation_id}"),
        ("get", "/api/cache/status"),
    }


def test_every_status_has_a_schema_and_every_error_the_same(described: Any) -> None:
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert {str(status) for status in EVERYWHERE} < set(operation["responses"]), path
            for status, response in operation["responses"].items():
                if status == "204":
                    continue
                schemas = [each["schema"] for each in response["content"].values()]
                assert schemas and all(schemas), (path, status)
                if status >= "400":
                    assert schemas == [{"$ref": "#/components/schemas/Failure"}], (path, status)


def test_every_parameter_has_its_bounds(described: Any) -> None:
    for operations in described["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                assert parameter.get("description") or parameter["schema"].get("description"), (
                    parameter
                )


def test_the_common_errors_are_everywhere_and_others_where_they_are_named() -> None:
    said = answers(Health, 404)
    assert set(said) == {*EVERYWHERE, 404, 200}
    assert all(said[status]["description"] == MEANINGS[status] for status in (*EVERYWHERE, 404))
    assert 200 not in answers(None)


def test_streams_are_described_beside_the_whole_answer() -> None:
    said = answers(Health, stream="a state a line")[200]
    assert "application/x-ndjson" in said["content"] and "a state a line" in said["description"]
