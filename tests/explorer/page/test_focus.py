"""Where the focus is, and what keys do, while the page draws anew what they stand on."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.explorer.browser import Explorer, positions

pytestmark = pytest.mark.slow
Conversation = dict[str, Any]


def at_heatmap(explorer: Explorer, two_turns: Conversation, place: int) -> tuple[Locator, int]:
    """The heat map's table, shown for a token of the second question, and its position."""
    position = positions(two_turns, "user", 2)[place]
    explorer.open(two_turns["conversation_id"], position)
    explorer.at("view-heatmap").click()
    return explorer.page.locator("#heatmap-view table"), position


def test_pinning_by_key_keeps_the_focus(explorer: Explorer, two_turns: Conversation) -> None:
    position = positions(two_turns, "user", 0)[-1]
    explorer.open(two_turns["conversation_id"], position)
    guess = explorer.page.locator("#list-view tbody tr").first.locator(".prediction").nth(1)
    guess.focus()
    with explorer.page.expect_response(re.compile("activations.*pins=")):
        explorer.page.keyboard.press("Enter")
    explorer.wait_for_panel()
    expect(guess).to_have_attribute("aria-pressed", "true")
    expect(guess).to_be_focused()


def test_closing_the_panel_by_key_is_possible_while_layers_come(
    explorer: Explorer, two_turns: Conversation
) -> None:
    first, second = positions(two_turns, "user", 0)[-2:]
    explorer.open(two_turns["conversation_id"], first)
    explorer.at("close-panel").focus()
    explorer.page.evaluate(f"location.hash = location.hash.replace('pos={first}', 'pos={second}')")
    expect(explorer.page.locator("#panel-head")).to_contain_text(str(second))
    explorer.wait_for_panel()
    expect(explorer.at("close-panel")).to_be_focused()


def test_one_cell_of_the_heat_map_is_a_tab_stop(
    explorer: Explorer, two_turns: Conversation
) -> None:
    table, position = at_heatmap(explorer, two_turns, -1)
    for each in (position, position - 3, position - 6):
        explorer.at(f"cell-1-{each}").click()
        explorer.page.keyboard.press("ArrowUp")
        expect(explorer.at(f"cell-2-{each}")).to_be_focused()
        expect(table.locator(".cell[tabindex='0']")).to_have_count(1)
    expect(explorer.at(f"cell-2-{position - 6}")).to_have_attribute("tabindex", "0")


@pytest.mark.parametrize("place", [-1, 0])  # as many columns as before, and others
def test_enter_in_the_heat_map_goes_to_the_column_of_its_token(
    explorer: Explorer, two_turns: Conversation, place: int
) -> None:
    _, position = at_heatmap(explorer, two_turns, -1)
    wanted = position - 2 if place else 3
    if not place:
        explorer.click(6)
    explorer.at(f"cell-1-{wanted}").focus()
    explorer.page.keyboard.press("Enter")
    explorer.wait_for_panel()
    expect(explorer.page.locator("#panel-head")).to_contain_text(f"position {wanted}")
    expect(explorer.at(f"cell-1-{wanted}")).to_be_focused()
    explorer.page.locator("#heatmap-view th.column button").first.focus()
    explorer.page.keyboard.press("Enter")
    explorer.wait_for_panel()
    expect(explorer.page.locator("#heatmap-view th.column button").last).to_be_focused()


def test_escape_takes_the_tooltip_away_before_the_panel(
    explorer: Explorer, two_turns: Conversation
) -> None:
    _, position = at_heatmap(explorer, two_turns, -1)
    explorer.at(f"cell-1-{position}").hover()
    tooltip, panel = explorer.page.locator("#tooltip"), explorer.at("panel")
    expect(tooltip).to_be_visible()
    explorer.page.keyboard.press("Escape")
    expect(tooltip).to_be_hidden()
    expect(panel).to_be_visible()
    explorer.page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


def test_arrows_scroll_a_wide_table(explorer: Explorer, two_turns: Conversation) -> None:
    position = positions(two_turns, "user", 2)[-1]
    explorer.open(two_turns["conversation_id"], position)
    explorer.opened("attention").get_by_role("region").focus()
    explorer.page.keyboard.press("ArrowRight")
    expect(explorer.at("attention-columns")).to_be_visible()
    expect(explorer.token(position)).to_have_attribute("aria-pressed", "true")
    expect(explorer.token(position + 1)).not_to_have_attribute("aria-pressed", "true")


def test_a_reader_who_walks_over_tokens_asks_for_the_attention_of_the_last(
    explorer: Explorer, two_turns: Conversation
) -> None:
    first, *_ = positions(two_turns, "user", 0)
    explorer.open(two_turns["conversation_id"], first)
    explorer.opened("attention")
    expect(explorer.page.locator("#attention tr.mean-row").first).to_be_visible()
    asked: list[str] = []
    explorer.page.on("request", lambda request: asked.append(request.url))
    explorer.page.evaluate(
        """() => {
          for (let n = 0; n < 8; n += 1) {
            const key = new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true });
            document.body.dispatchEvent(key);
          }
        }"""
    )
    path = f"/api/attention/{two_turns['conversation_id']}/{first + 8}"
    expect(explorer.page.locator("#attention thead th").nth(-1)).to_contain_text(str(first + 8))
    assert [url for url in asked if "/attention/" in url] == [explorer.server.url + path[1:]]
