"""Answers that come when the reader is elsewhere already, and what happens without the reader."""

import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Request, Route, expect

from tests.explorer.browser import FIRST, WAIT_SECONDS, Explorer, positions

pytestmark = pytest.mark.slow
Conversation = dict[str, Any]


def held(explorer: Explorer, path: str) -> list[Route]:
    """Requests of a path, which wait until they are let go on."""
    routes: list[Route] = []
    explorer.page.route(lambda url: urlsplit(url).path == path, lambda route: routes.append(route))
    return routes


def let_go(explorer: Explorer, routes: list[Route]) -> None:
    """Let the first go on, until the page has its answer."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not routes:
        assert time.monotonic() < deadline, "nothing was asked"
        explorer.page.wait_for_timeout(20)
    [route, *_] = routes
    with explorer.page.expect_response(route.request.url):
        route.continue_()
    explorer.page.evaluate("new Promise((done) => setTimeout(done, 50))")


@pytest.mark.parametrize("other", ["conversation", "new"])
def test_what_was_chosen_last_is_shown(
    explorer: Explorer, two_turns: Conversation, other: str
) -> None:
    slow = two_turns["conversation_id"]
    fast = explorer.server.say(FIRST, max_new_tokens=1)["conversation_id"]
    explorer.open()
    routes = held(explorer, f"/api/conversations/{slow}")
    explorer.at(f"conversation-{slow}").click()
    if other == "new":
        explorer.page.locator("#new-conversation").click()
    else:
        explorer.at(f"conversation-{fast}").click()
        expect(explorer.token(0)).to_be_visible()
    let_go(explorer, routes)
    expect(explorer.token(len(two_turns["tokens"]) - 1)).to_have_count(0)
    assert slow not in explorer.page.url
    if other == "new":
        expect(explorer.page.locator("#messages .welcome")).to_be_visible()
    else:
        assert fast in explorer.page.url


def test_a_typed_alternative_is_for_the_token_that_was_clicked(
    explorer: Explorer, two_turns: Conversation
) -> None:
    position, other = positions(two_turns, "assistant", 1)[1:3]
    explorer.open(two_turns["conversation_id"], position)
    explorer.opened("regenerate")
    routes = held(explorer, "/api/tokens")
    explorer.at("regenerate-text").fill(" the")
    explorer.at("regenerate-go").click()
    explorer.click(other)

    def is_fork(request: Request) -> bool:
        return request.url.endswith("/regenerate")

    with explorer.page.expect_request(is_fork) as asked:
        let_go(explorer, routes)
    assert asked.value.post_data_json["position"] == position
    explorer.wait_for_reply()


def test_what_follows_the_last_token_is_shown_once_another_tab_went_on(
    explorer: Explorer,
) -> None:
    talk = explorer.server.say(FIRST, max_new_tokens=4)["conversation_id"]
    last = len(explorer.server.get(f"api/conversations/{talk}")["tokens"]) - 1
    explorer.open(talk, last)
    expect(explorer.page.locator("#panel-head")).to_contain_text("not known yet")
    explorer.server.say("And then?", conversation_id=talk, max_new_tokens=4)
    explorer.page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(explorer.token(last + 1)).to_be_visible()
    expect(explorer.page.locator("#panel-head")).not_to_contain_text("not known yet")
    explorer.wait_for_panel()
    rows = explorer.server.get(f"api/activations/{talk}/{last}?context_size=0")["states"]
    shown = explorer.page.locator("#list-view tbody tr").first
    explorer.at("colour").select_option("next_rank")
    rank = rows[0]["cells"][0]["next"]["rank"]
    expect(shown.locator("td.measure")).to_have_text(f"{rank:,}")


def test_a_page_that_is_left_alone_says_that_the_server_is_gone(
    explorer: Explorer, two_turns: Conversation
) -> None:
    explorer.open(two_turns["conversation_id"])
    explorer.page.route("**/api/cache/status", lambda route: route.abort())
    error = explorer.at("error")
    expect(error).to_have_count(0)
    expect(error).to_contain_text("does not answer")
    expect(error).to_have_count(1)
    explorer.page.unroute("**/api/cache/status")
    expect(error).to_have_count(0)
    explorer.watch.forgive("ERR_FAILED")


def test_an_address_with_an_unknown_colour_shows_the_usual_one(
    explorer: Explorer, two_turns: Conversation
) -> None:
    hash_ = f"#conv={two_turns['conversation_id']}&pos=3&colour=constructor"
    explorer.page.goto(explorer.server.url + hash_)
    explorer.wait_for_panel()
    expect(explorer.at("colour")).to_have_value("probability")
    measure = explorer.page.locator("#list-view tbody tr").first.locator("td.measure")
    expect(measure).to_contain_text("%")


def test_panels_that_were_read_ahead_are_bounded(
    explorer: Explorer, two_turns: Conversation
) -> None:
    talk = two_turns["conversation_id"]
    address = f"{explorer.server.url}api/activations/{talk}/3?stream=true"
    body = explorer.page.request.get(address).text()
    explorer.page.route("**/api/activations/**", lambda route: route.fulfill(body=body))
    explorer.open(talk)
    ask = """async ([count, expected]) => {
      const { prefetch } = await import("./static/api.js");
      performance.setResourceTimingBufferSize(10_000);
      for (let n = 0; n < count; n += 1) {
        prefetch({ conversation: "c", position: n, lens: "logit", pins: [] });
      }
      const asked = () => performance
        .getEntriesByType("resource")
        .filter(({ name }) => name.includes("/activations/c/")).length;
      const end = performance.now() + 30_000;
      while (asked() < expected && performance.now() < end) {
        await new Promise((done) => setTimeout(done, 50));
      }
      await new Promise((done) => setTimeout(done, 300));
      return asked();
    }"""
    assert explorer.page.evaluate(ask, [220, 220]) == 220
    assert explorer.page.evaluate(ask, [10, 230]) == 230  # the first had been dropped
