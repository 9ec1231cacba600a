"""The page's files: their types, that they are asked for again, and that nothing else is served."""

import json
import re
from http.client import HTTPConnection

import pytest
from starlette.testclient import TestClient

from sdlms.explorer.http.routes.page import MEDIA_TYPES, PAGE
from sdlms.explorer.http.server import create_app
from sdlms.explorer.service import Explorer
from tests.explorer.http_server import served

FILES = sorted(path.name for path in PAGE.iterdir() if path.is_file())
TEXT = {name: (PAGE / name).read_text("utf-8") for name in FILES}


def test_the_page_and_its_icon_are_there(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (PAGE / "index.html").read_text("utf-8")
    assert client.get("/favicon.ico").headers["content-type"].startswith("image/svg+xml")


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/static/app.js"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == whole.headers


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type(client: TestClient, name: str) -> None:
    response = client.get(f"/static/{name}")
    assert response.status_code == 200 and response.text == (PAGE / name).read_text("utf-8")
    kind = MEDIA_TYPES[name[name.rindex(".") :]]
    assert response.headers["content-type"].startswith(kind)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"


PATHS = (
    *("..", "../server.py", "%2e%2e/server.py", "%2e%2e%2fserver.py", "..%5cserver.py"),
    *("....//server.py", "%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd", ".", "", "%00"),
    *("app.js/", "app.js%00", "app.js%00.css", "APP.JS", "nothing.js", "__init__.py", "%ff"),
)


def test_nothing_else_is_served(explorer: Explorer) -> None:
    with served(create_app(explorer)) as host:
        for path in PATHS:
            connection = HTTPConnection(host)  # it sends the path as it is
            connection.request("GET", f"/static/{path}")
            response = connection.getresponse()
            assert response.status == 404, path
            assert list(json.loads(response.read())) == ["detail"]
            connection.close()


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_site(name: str) -> None:
    named = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", TEXT[name])
    assert [each for each in named if not each.startswith("http://www.w3.org/")] == []


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = TEXT["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


def test_the_page_names_only_files_that_are_served(client: TestClient) -> None:
    for name in re.findall(r"(?:src|href)=\"((?:static/|favicon)[^\"]*)\"", TEXT["index.html"]):
        assert client.get(f"/{name}").status_code == 200, name


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_modules_import_only_modules_that_are_served(name: str) -> None:
    for other in re.findall(r"from \"\./([^\"]*)\"", TEXT[name]):
        assert other in FILES
