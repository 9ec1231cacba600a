"""The whole server: fuzzed from its own description, and asked by ten at once over real HTTP."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from sdlms.explorer.http.guard import SECURITY_HEADERS
from sdlms.explorer.http.server import create_app
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.service import Explorer
from sdlms.explorer.settings import ExplorerSettings
from tests.explorer.http_server import served
from tests.explorer.small import chat, client_of, small_explorer

MOST_NEW_TOKENS = 2
N_CLIENTS = 10
HOSTS = ("testserver", "localhost")  # as the fuzzer calls it
FUZZING = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    explorer = small_explorer(tmp_path_factory.mktemp("explorer"))
    yield explorer
    explorer.close()


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> TestClient:
    return client_of(explorer)


@pytest.fixture(scope="module")
def known(client: TestClient) -> Any:
    return chat(client)


@pytest.fixture(scope="module")
def schema(explorer: Explorer) -> Any:
    refused = {"expected-statuses": [400, 404, 405, 413, 415, 422]}
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": refused}})
    app = create_app(explorer, allowed_hosts=HOSTS)
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


def asked(schema: Any, mode: GenerationMode, change: Callable[[Any], None]) -> dict[str, set[int]]:
    """Ask every operation some questions, and check the answers; which statuses each gave.

    What takes nothing, or any text, cannot be asked wrongly.
    """
    operations = [found.ok() for found in schema.get_all_operations()]
    if mode is GenerationMode.NEGATIVE:
        operations = [each for each in operations if is_choosy(each)]
    return {each.label: statuses_of(each, mode, change) for each in operations}


def is_choosy(operation: Any) -> bool:
    """Whether there is anything that the operation does not take."""
    asked_for = operation.definition.raw
    return operation.path != "/static/{name}" and bool(
        asked_for.get("parameters") or asked_for.get("requestBody")
    )


def statuses_of(operation: Any, mode: GenerationMode, change: Callable[[Any], None]) -> set[int]:
    seen: set[int] = set()

    @FUZZING
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        change(case)
        # What a schema cannot say is refused too: a lens that is not loaded.
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        seen.add(response.status_code)

    ask()
    return seen


def shorten(case: Any) -> None:
    """Have replies of a few tokens, where the request is one that the server would grant."""
    if case.method == "POST" and isinstance(case.body, dict):
        n_tokens = case.body.get("max_new_tokens", 64)
        if isinstance(n_tokens, int):
            case.body["max_new_tokens"] = min(n_tokens, MOST_NEW_TOKENS)


def aim(case: Any, known: Any) -> None:
    """Have a conversation, a position and a token that are there."""
    shorten(case)
    if case.method != "DELETE" and "conversation_id" in case.path_parameters:
        case.path_parameters["conversation_id"] = known["conversation_id"]
    if "position" in case.path_parameters:
        case.path_parameters["position"] %= len(known["userTokens"])
    if "/search/" in case.path:
        case.query = {**case.query, "token_id": 3, "layer": 0}
        case.query.pop("text", None)
    if case.method == "PATCH":
        case.body["persisted"] = False
    elif isinstance(case.body, dict):
        case.body.pop("conversation_id", None)
        if "token_id" in case.body:
            case.body |= {"token_id": 3, "position": known["tokens"][0]["position"]}


@pytest.mark.slow
def test_what_the_description_allows_is_answered_as_it_says(schema: Any, known: Any) -> None:
    statuses = asked(schema, GenerationMode.POSITIVE, lambda case: aim(case, known))
    unanswered = {name for name, seen in statuses.items() if 200 not in seen}
    assert unanswered == {"GET /static/{name}", "DELETE /api/cache/{conversation_id}"}, statuses


@pytest.mark.slow
def test_what_it_does_not_allow_is_refused(schema: Any) -> None:
    statuses = asked(schema, GenerationMode.NEGATIVE, shorten)
    assert set[int]().union(*statuses.values()) >= {400, 404, 422}


@pytest.mark.parametrize("path", ["/", "/api/nothing", "/static/app.js", "/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "TRACE", "DELETE"])
def test_whatever_is_answered_is_safe(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert response.status_code in (200, 404, 405)
    for name, value in SECURITY_HEADERS.items():
        assert response.headers[name] == value
    assert "access-control-allow-origin" not in response.headers


def test_there_are_no_pages_of_documentation_that_load_from_elsewhere(client: TestClient) -> None:
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert client.get("/openapi.json").json()["info"]["title"] == "sdlms explore"


def test_the_model_text_is_never_a_page(client: TestClient) -> None:
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    response = client.post("/api/chat/with-activations", json={"text": attack, "max_new_tokens": 1})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_token_is_asked_for_wherever_one_is_set(explorer: Explorer) -> None:
    token = "correct-horse-battery"
    browser = TestClient(create_app(explorer, token=token), "http://localhost")
    described = client_of(explorer).get("/openapi.json").json()["paths"]
    for path, operations in described.items():
        for method in operations:
            assert browser.request(method, path).status_code == 401, path
    assert browser.get(f"/?token={token}").status_code == 200  # and on to the page
    assert browser.get("/api/health").status_code == 200


def test_more_replies_at_once_than_are_taken_must_wait(
    explorer: Explorer, client: TestClient
) -> None:
    with ExitStack() as held:
        for _ in range(ExplorerSettings().n_generations):
            held.enter_context(closing(explorer.chat(ChatRequest(text="Say much."))))
        for stream in (False, True):
            request = {"text": "Me too.", "stream": stream}
            refused = client.post("/api/chat/with-activations", json=request)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
    chat(client)


def test_whoever_goes_away_makes_room(explorer: Explorer) -> None:
    request = {"text": "Say much.", "max_new_tokens": 300, "temperature": 5.0, "stream": True}
    with served(create_app(explorer)) as host:
        for _ in range(3 * ExplorerSettings().n_generations):
            with httpx.Client(base_url=f"http://{host}", timeout=60) as http:
                with http.stream("POST", "/api/chat/with-activations", json=request) as response:
                    next(response.iter_lines(), None)
        with httpx.Client(base_url=f"http://{host}", timeout=60) as http:
            assert patiently(http, {"text": "Short.", "max_new_tokens": 1})["finish"] == "length"


@pytest.mark.slow
def test_ten_clients_at_once_each_get_their_own(explorer: Explorer) -> None:
    """Four replies go on at once; who is sent away comes again."""

    def converse(number: int, host: str) -> tuple[Any, Any]:
        with httpx.Client(base_url=f"http://{host}", timeout=60) as http:
            first = patiently(http, {"text": f"The number {number}", "max_new_tokens": 3})
            found = first["conversation_id"]
            request = {"text": "Go on", "max_new_tokens": 3, "conversation_id": found}
            second = patiently(http, {**request, "stream": True})
            tokens = http.get(f"/api/conversations/{found}").json()["tokens"]
            panel = http.get(f"/api/activations/{found}/{len(tokens) - 2}").json()
            return first["tokens"] + second["tokens"], (tokens, panel)

    with served(create_app(explorer)) as host, ThreadPoolExecutor(N_CLIENTS) as pool:
        together = list(pool.map(converse, range(N_CLIENTS), [host] * N_CLIENTS))
        alone = [converse(number, host) for number in range(N_CLIENTS)]
    for (said, (tokens, panel)), (said_alone, _) in zip(together, alone, strict=True):
        assert [token["id"] for token in said] == [token["id"] for token in said_alone]
        assert [token["position"] for token in tokens] == list(range(len(tokens)))
        assert panel["tokens"] == tokens[-17:-1]


def patiently(http: httpx.Client, request: dict[str, Any]) -> Any:
    """The reply, asked for until it is given."""
    for _ in range(1_000):
        response = http.post("/api/chat/with-activations", json=request)
        if response.status_code != 429:
            break
        time.sleep(0.02)  # what asks at once holds up those it waits for
    assert response.status_code == 200, response.text
    return json.loads(response.text.splitlines()[-1])
