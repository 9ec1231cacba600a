"""A Chromium for the tests of the page, and a server for it."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect, sync_playwright

from sdlms.explorer.http.server import create_app
from tests.explorer.http_server import served
from tests.explorer.small import small_explorer

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "no Chromium found; install one: apt-get install chromium (or set SDLMS_CHROMIUM)"
# No sandbox: a container's root has none. The others keep Chromium from asking its maker anything.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
REPLY_SECONDS = 60.0
WAIT_SECONDS = 20.0  # for something on the page; a wait that ends well is as long as it must be
FIRST, SECOND = "What is the capital of France?", "And where does the river begin?"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 800}
# A policy that is violated says so in the page; the console says it only to some.
WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


def chromium() -> str:
    """The path of a Chromium; the test is skipped where there is none.

    With SDLMS_REQUIRE_CHROMIUM=1, as continuous integration sets it, the test fails instead.
    """
    named = os.environ.get("SDLMS_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("SDLMS_REQUIRE_CHROMIUM") == "1":
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless browser, closed at the end."""
    path = chromium()
    expect.set_options(timeout=1000 * WAIT_SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Server:
    """An explorer and its HTTP server in a thread.

    Args:
        folder: keeps the conversations.
        model: an embedded one.
        tuned_lens: folder of one, if any.
    """

    def __init__(
        self, folder: Path, model: str = "sdlms-small", tuned_lens: Path | None = None
    ) -> None:
        self._folder, self._model, self._tuned_lens = folder, model, tuned_lens
        self._port = 0
        self._running = ExitStack()
        self.url = ""

    def start(self) -> None:
        """Open the explorer and serve it; a second start has the port of the first."""
        explorer = small_explorer(self._folder, self._tuned_lens, self._model)
        self._running.callback(explorer.close)
        host = self._running.enter_context(served(create_app(explorer), self._port))
        self.url, self._port = f"http://{host}/", int(host.rpartition(":")[2])

    def stop(self) -> None:
        """End it, as Ctrl-C does."""
        self._running.close()

    def restart(self) -> None:
        """End it and start it anew at the same address."""
        self.stop()
        self.start()

    def get(self, path: str) -> Any:
        """The JSON of an address below the server's own."""
        with urlopen(self.url + path, timeout=REPLY_SECONDS) as reply:
            return json.load(reply)

    def say(self, text: str, **more: Any) -> Any:
        """Send a message; what the server replies."""
        body = json.dumps({"text": text, "max_new_tokens": 12, **more}).encode()
        asked = Asked(self.url + "api/chat/with-activations", body)
        asked.add_header("Content-Type", "application/json")
        with urlopen(asked, timeout=REPLY_SECONDS) as reply:
            return json.load(reply)


class Watch:
    """What a page does that it must not do: errors, foreign requests, a broken policy."""

    def __init__(self, page: Page, origin: str) -> None:
        self._page, self._origin = page, origin
        self._seen: list[str] = []
        page.add_init_script(WATCH_POLICY)
        page.on("pageerror", lambda error: self._seen.append(f"page error: {error}"))
        page.on("console", lambda line: self._console(line.type, line.text))
        page.on("request", self._request)

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self._seen.append(f"console {kind}: {text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self._origin, "data:", "blob:")):
            self._seen.append(f"foreign request: {request.url}")

    def forgive(self, part: str) -> None:
        """Forget what the test itself provoked: Chromium logs every answer from 400 on."""
        self._seen = [each for each in self._seen if part not in each]

    def complaints(self) -> list[str]:
        """All that was seen so far; empty where the page is in order."""
        violations = self._page.evaluate("window.violations")
        return self._seen + [f"policy: {each}" for each in violations]


class Explorer:
    """The page as a person uses it."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        self.watch = Watch(page, server.url)
        page.set_default_timeout(1000 * WAIT_SECONDS)

    def open(self, conversation: str = "", position: int | None = None) -> None:
        """Load the page, at a token of a conversation."""
        hash_ = f"#conv={conversation}" if conversation else ""
        self.page.goto(self.server.url + hash_ + ("" if position is None else f"&pos={position}"))
        if conversation:
            expect(self.token(0)).to_be_visible()
        if position is not None:
            self.wait_for_panel()

    def at(self, name: str) -> Locator:
        """What has this `data-testid`."""
        return self.page.get_by_test_id(name)

    def token(self, position: int) -> Locator:
        """A token of the conversation."""
        return self.at(f"token-{position}")

    def say(self, text: str) -> None:
        """Type a message, send it with Enter, and wait for the end of the reply."""
        self.at("message").fill(text)
        self.at("message").press("Enter")
        self.wait_for_reply()

    def set(self, name: str, value: str) -> None:
        """Change a setting of the generation."""
        self.at("settings").click()
        self.at(f"setting-{name}").fill(value)
        self.at(f"setting-{name}").press("Enter")
        self.at("settings").click()

    def wait_for_reply(self) -> None:
        """Wait until the reply has ended and the next message can be sent."""
        expect(self.at("reply-status")).to_have_text(re.compile(r"tokens? in [\d.]+ s"))
        expect(self.at("send")).to_be_visible()

    def click(self, position: int) -> None:
        """Click a token and wait for all its layers."""
        self.token(position).click()
        self.wait_for_panel()

    def wait_for_panel(self) -> None:
        """Wait until all layers have come."""
        expect(self.at("panel")).to_have_attribute("data-status", "done")

    def wait_for_rows(self, conversation: str) -> None:
        """Wait until the worker has measured all that can be measured."""
        deadline = time.monotonic() + REPLY_SECONDS
        while self.server.get(f"api/overview/{conversation}")["n_unfilled"] > 0:
            assert time.monotonic() < deadline, "the worker does not end"
            time.sleep(0.05)

    def opened(self, tool: str) -> Locator:
        """A tool of the page, opened."""
        frame = self.page.locator(f"#tool-{tool}")
        if frame.get_attribute("open") is None:
            frame.locator("summary").first.click()
        return frame


def positions(conversation: dict[str, Any], role: str, message: int) -> list[int]:
    """Of the tokens of one message, without its template."""
    return [
        token["position"]
        for token in conversation["tokens"]
        if (token["role"], token["message_index"]) == (role, message) and not token["is_template"]
    ]
