"""The page in Chromium: a chat, a click, the panel; a reload and a restart bring both back."""

import re
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.explorer.browser import FIRST, NARROW, SECOND, Explorer, positions

pytestmark = pytest.mark.slow


def test_two_turns_and_a_click_that_sees_across_the_boundary(explorer: Explorer) -> None:
    explorer.open()
    explorer.say(FIRST)
    explorer.say(SECOND)
    identity = re.search(r"conv=([\w-]+)", explorer.page.url)
    assert identity is not None
    conversation = explorer.server.get(f"api/conversations/{identity[1]}")
    assert [each["role"] for each in conversation["messages"]] == ["user", "assistant"] * 2
    tokens = conversation["tokens"]
    shown = explorer.page.locator(".token").evaluate_all(
        "tokens => tokens.map(token => Number(token.dataset.position))"
    )
    assert shown == list(range(len(tokens)))
    question = positions(conversation, "user", 0)
    assert "".join(tokens[n]["text"] for n in question).strip() == FIRST

    info = explorer.server.get("api/model_info")
    explorer.click(question[2])
    names = explorer.page.locator("#list-view tbody tr th").all_inner_texts()
    assert [name.split("\n")[0] for name in names] == [s["name"] for s in info["states"]][::-1]
    expect(explorer.at("decided")).to_contain_text("decided at")

    second = positions(conversation, "user", 2)[0]
    explorer.click(second)
    context = explorer.page.locator(".token.in-context").evaluate_all(
        "tokens => tokens.map(token => Number(token.dataset.position))"
    )
    assert context == list(range(max(0, second - 15), second + 1))
    assert {"assistant", "user"} <= {tokens[n]["role"] for n in context}


def test_the_list_says_what_the_server_says(explorer: Explorer, two_turns: dict[str, Any]) -> None:
    identity, position = two_turns["conversation_id"], positions(two_turns, "user", 0)[3]
    explorer.open(identity, position)
    panel = explorer.server.get(f"api/activations/{identity}/{position}")
    for state in panel["states"]:
        row = explorer.at(f"layer-{state['index']}")
        shown = row.locator(".prediction-share").all_inner_texts()
        percents = [prediction["percent"] for prediction in state["cells"][-1]["top"][:5]]
        assert [float(text.strip("< %")) for text in shown] == pytest.approx(percents, abs=0.06)


def test_heat_map_and_back(explorer: Explorer, two_turns: dict[str, Any]) -> None:
    position = positions(two_turns, "user", 2)[0]
    explorer.page.set_viewport_size(NARROW)
    explorer.open(two_turns["conversation_id"], position)
    explorer.at("view-heatmap").click()
    expect(explorer.page.locator("#list-view")).to_be_hidden()
    expect(explorer.at(f"cell-2-{position}")).to_be_in_viewport()  # the last column is the clicked
    info = explorer.server.get("api/model_info")
    cells = explorer.page.locator("[data-testid^='cell-']")
    expect(cells).to_have_count(16 * len(info["states"]))
    for colour in ("entropy", "next_rank", "kl", "probability"):
        explorer.at("colour").select_option(colour)
        steps = cells.evaluate_all(
            "all => all.map(cell => cell.className.match(/step-(\\d)/)?.[1])"
        )
        assert None not in steps
        assert len(set(steps)) > 1, colour
    explorer.at("view-list").click()
    expect(explorer.page.locator("#heatmap-view")).to_be_hidden()
    expect(explorer.at("layer-0")).to_be_visible()


def test_arrows_walk_over_tokens_and_layers(explorer: Explorer, two_turns: dict[str, Any]) -> None:
    explorer.open(two_turns["conversation_id"])
    explorer.click(5)
    explorer.page.keyboard.press("ArrowRight")
    expect(explorer.page).to_have_url(re.compile("pos=6"))
    explorer.page.keyboard.press("ArrowLeft")
    explorer.page.keyboard.press("ArrowLeft")
    expect(explorer.page).to_have_url(re.compile("pos=4"))
    explorer.wait_for_panel()
    explorer.page.keyboard.press("ArrowUp")
    explorer.page.keyboard.press("ArrowDown")
    last = len(explorer.server.get("api/model_info")["states"]) - 1
    expect(explorer.page.locator("#list-view tr.current")).to_have_attribute(
        "data-testid", f"layer-{last - 1}"
    )
    explorer.page.keyboard.press("Escape")
    expect(explorer.at("panel")).to_be_hidden()


def test_a_reload_brings_conversation_and_panel_back(
    explorer: Explorer, two_turns: dict[str, Any]
) -> None:
    position = positions(two_turns, "user", 0)[1]
    explorer.open(two_turns["conversation_id"])
    explorer.click(position)
    explorer.at("view-heatmap").click()
    explorer.page.reload()
    explorer.wait_for_panel()
    expect(explorer.token(position)).to_have_class(re.compile("selected"))
    expect(explorer.at(f"cell-0-{position}")).to_be_visible()


def test_a_server_that_does_not_answer_is_asked_again(
    explorer: Explorer, two_turns: dict[str, Any]
) -> None:
    first, second = positions(two_turns, "user", 0)[0], positions(two_turns, "user", 2)[-1]
    explorer.open(two_turns["conversation_id"], first)
    explorer.page.context.set_offline(True)
    explorer.token(second).click()
    expect(explorer.at("retry")).to_be_visible()
    expect(explorer.at("error")).to_contain_text("does not answer")
    explorer.at("close-panel").click()
    explorer.click(first)
    explorer.opened("compare")
    explorer.at("compare-position").fill(str(second))
    explorer.at("compare-go").click()
    expect(explorer.page.locator("#compare")).to_contain_text("could not be read")
    explorer.page.context.set_offline(False)
    expect(explorer.at("error")).to_have_count(0)
    explorer.at("compare-go").click()
    expect(explorer.page.locator("#compare td").first).to_be_visible()
    explorer.token(second).click()
    explorer.wait_for_panel()
    explorer.watch.forgive("ERR_INTERNET_DISCONNECTED")


def test_a_reply_that_breaks_off_says_so(explorer: Explorer, two_turns: dict[str, Any]) -> None:
    explorer.open(two_turns["conversation_id"])
    count = explorer.page.locator(".token").count()
    explorer.page.evaluate(
        """(id) => {
          const kept = window.fetch;
          const start = JSON.stringify({ event: "start", conversation_id: id }) + "\\n";
          const broken = new ReadableStream({ start: (stream) => {
            stream.enqueue(new TextEncoder().encode(start));
            window.breakOff = () => stream.error(new TypeError("network error"));
          } });
          window.fetch = async (address, options) =>
            address.includes("chat") ? new Response(broken) : kept(address, options);
        }""",
        two_turns["conversation_id"],
    )
    explorer.at("message").fill(FIRST)
    explorer.at("message").press("Enter")
    expect(explorer.at("reply-status")).to_have_text("writing…")
    explorer.page.evaluate("window.breakOff()")
    expect(explorer.at("reply-status")).to_have_text("the reply broke off")
    expect(explorer.at("error")).to_contain_text("broke off")
    expect(explorer.at("send")).to_be_visible()
    assert explorer.page.locator(".token").count() == count


def test_a_tab_sees_what_another_one_said(explorer: Explorer) -> None:
    identity = explorer.server.say(FIRST)["conversation_id"]
    explorer.open(identity)
    explorer.server.say(SECOND, conversation_id=identity)
    explorer.page.evaluate("window.dispatchEvent(new Event('focus'))")
    known = explorer.server.get(f"api/conversations/{identity}")["tokens"]
    expect(explorer.page.locator(".token")).to_have_count(len(known))
    explorer.server.say(SECOND, conversation_id=identity)
    explorer.say(FIRST)  # without having seen it
    known = explorer.server.get(f"api/conversations/{identity}")["tokens"]
    expect(explorer.page.locator(".token")).to_have_count(len(known))


def test_the_drawer_of_a_narrow_window_stays_as_the_reader_left_it(explorer: Explorer) -> None:
    explorer.page.set_viewport_size(NARROW)
    explorer.open()
    drawer, button = explorer.page.locator("#conversations"), explorer.page.get_by_text("Chats")
    button.click()
    expect(drawer).to_be_visible()
    explorer.say(FIRST)
    identity = explorer.server.get("api/conversations")[0]["conversation_id"]
    expect(explorer.at(f"conversation-{identity}")).to_have_attribute("title", FIRST)
    expect(drawer).to_be_visible()
    explorer.at(f"conversation-{identity}").click()
    expect(drawer).to_be_hidden()
    button.click()
    button.press("Escape")
    expect(drawer).to_be_hidden()


def test_the_limits_are_the_servers(explorer: Explorer, two_turns: dict[str, Any]) -> None:
    def narrow(route: Route) -> None:
        info = explorer.server.get("api/model_info")
        info["limits"] |= {"max_new_tokens": 5, "max_pins": 1}
        route.fulfill(json=info)

    explorer.page.route("**/api/model_info", narrow)
    explorer.open(two_turns["conversation_id"], 5)
    expect(explorer.at("setting-max_new_tokens")).to_have_value("5")
    expect(explorer.at("setting-max_new_tokens")).to_have_attribute("max", "5")
    for row in (0, 1):
        explorer.page.locator("#list-view tr").nth(1).locator(".prediction").nth(row).click()
    expect(explorer.at("pins").locator("li")).to_have_count(1)


def test_a_page_goes_on_after_a_restart_of_the_server(
    explorer: Explorer, two_turns: dict[str, Any]
) -> None:
    # Neighbours are read ahead: the second token is none of the first one's.
    first, second = positions(two_turns, "user", 0)[2], positions(two_turns, "user", 2)[-1]
    explorer.open(two_turns["conversation_id"])
    explorer.wait_for_rows(two_turns["conversation_id"])
    explorer.click(first)
    before = explorer.at("layer-0").inner_text()
    explorer.server.restart()
    explorer.click(second)
    expect(explorer.at("source")).to_have_text("from disk")
    explorer.click(first)
    explorer.page.reload()
    explorer.wait_for_panel()
    expect(explorer.at("source")).to_have_text(re.compile("from (disk|memory)"))
    assert explorer.at("layer-0").inner_text() == before
    explorer.watch.forgive("ERR_CONNECTION_REFUSED")  # of what it asked meanwhile


def test_a_message_sent_while_the_page_starts_stays(explorer: Explorer) -> None:
    held: list[Route] = []
    explorer.page.route("**/api/model_info", lambda route: held.append(route))
    explorer.open()
    explorer.say(FIRST)
    count = explorer.page.locator(".token").count()
    held[0].continue_()
    expect(explorer.page).to_have_url(re.compile("conv="))
    assert explorer.page.locator(".token").count() == count > 0


def test_the_tuned_lens_is_another_lens(explorer: Explorer, two_turns: dict[str, Any]) -> None:
    identity, position = two_turns["conversation_id"], positions(two_turns, "user", 0)[3]
    explorer.open(identity, position)
    shown = {}
    for lens in ("tuned", "logit"):
        explorer.at(f"lens-{lens}").click()
        explorer.wait_for_panel()
        answer = explorer.server.get(f"api/activations/{identity}/{position}?lens={lens}")
        first = answer["states"][1]["cells"][-1]["top"][0]["text"]
        row = explorer.at(f"layer-{answer['states'][1]['index']}")
        expect(row.locator(".prediction-text").first).to_contain_text(first.strip())
        assert f"lens={lens}" in explorer.page.url
        shown[lens] = explorer.page.locator("#list-view tbody").inner_text().split("\n")
    assert shown["tuned"] != shown["logit"]
    assert explorer.page.locator("#lens-note").inner_text().startswith("Raw logit lens")
