"""What the page shows of answers that are not whole, and where a part of the page fails."""

from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.explorer.browser import Explorer, positions

pytestmark = pytest.mark.slow
Conversation = dict[str, Any]
# The server's answers to a click, as it gives them where rows of the context must be measured: the
# clicked token alone, then the whole. They come as far as `window.give(lines)` lets them.
HELD = """
(() => {
  const own = window.fetch;
  let given = 0;
  const waiting = [];
  let tell;
  window.held = new Promise((resolve) => (tell = resolve));
  window.give = (lines) => {
    given += lines;
    waiting.splice(0).forEach((go) => go());
  };
  const linesOf = async (address) => {
    const text = await (await own(address)).text();
    return text.split("\\n").filter(Boolean).map((line) => `${line}\\n`);
  };
  window.fetch = async (address, options) => {
    if (!/activations.*stream=true/.test(address)) return own(address, options);
    const alone = await linesOf(`${address}&include_context=false`);
    const lines = [...alone, ...(await linesOf(address))];
    tell({ alone: alone.length, all: lines.length });
    const pull = async (controller) => {
      while (given === 0) await new Promise((go) => waiting.push(go));
      controller.enqueue(new TextEncoder().encode(lines.splice(0, given).join("")));
      given = 0;
      if (!lines.length) controller.close();
    };
    return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }));
  };
})();
"""


def test_cells_stand_under_their_tokens_while_they_come(
    explorer: Explorer, two_turns: Conversation
) -> None:
    identity, position = two_turns["conversation_id"], positions(two_turns, "assistant", 1)[2]
    explorer.page.add_init_script(HELD)
    explorer.open(identity)
    explorer.token(position).click()
    held = explorer.page.evaluate("window.held")
    explorer.at("view-heatmap").click()
    explorer.opened("regenerate")
    whole = explorer.server.get(f"api/activations/{identity}/{position}")
    final, *others = whole["states"]
    first, second = whole["positions"][0], others[0]["index"]
    own = explorer.at(f"cell-{final['index']}-{position}")
    columns = explorer.page.locator("#heatmap-view thead th.column")

    explorer.page.evaluate("window.give", held["alone"])
    expect(own).not_to_have_class("cell empty clicked")
    expect(own).to_have_text(shown(final, -1))
    expect(columns).to_have_count(len(whole["positions"]))
    for state in whole["states"]:
        expect(explorer.at(f"cell-{state['index']}-{first}")).to_have_text("")
    expect(explorer.at("alternatives").get_by_role("button")).to_have_count(0)

    explorer.page.evaluate("window.give", 2)  # the second header, and the final state
    expect(explorer.at(f"cell-{final['index']}-{first}")).to_have_text(shown(final, 0))
    expect(explorer.at(f"cell-{second}-{position}")).to_have_text(shown(others[0], -1))
    expect(explorer.at(f"cell-{second}-{first}")).to_have_text("")
    expect(explorer.at("alternatives").get_by_role("button").first).to_be_visible()

    explorer.page.evaluate("window.give", held["all"])
    explorer.wait_for_panel()
    expect(explorer.at(f"cell-{second}-{first}")).to_have_text(shown(others[0], 0))


def test_attention_says_what_is_left_out(explorer: Explorer, two_turns: Conversation) -> None:
    def shortened(route: Route) -> None:
        answer = route.fetch().json()
        *left, last = answer["layers"]
        given = {"layers": [last], "left_out_layers": [each["layer"] for each in left]}
        route.fulfill(json={**answer, **given, "n_left_out": 1})

    explorer.page.route("**/api/attention/**", shortened)
    explorer.open(two_turns["conversation_id"], positions(two_turns, "user", 2)[-1])
    said = explorer.opened("attention").get_by_role("status")
    n_layers = explorer.server.get("api/model_info")["num_layers"]
    expect(said).to_contain_text(f"the first {n_layers - 1} layers and the first 1 token.")
    expect(explorer.page.locator("#attention tr.mean-row")).to_have_count(1)


def test_a_part_of_the_page_that_fails_keeps_no_other_from_going_on(
    explorer: Explorer, two_turns: Conversation
) -> None:
    explorer.open(two_turns["conversation_id"])
    told = explorer.page.evaluate(
        """async () => {
          const { createStore } = await import("./static/store.js");
          const store = createStore();
          const told = [];
          store.on("layer", () => { throw new Error("on purpose"); });
          store.on("layer", ({ layer }) => told.push(layer));
          store.set({ layer: 3 });
          return told;
        }"""
    )
    assert told == [3]
    assert any("on purpose" in each for each in explorer.watch.complaints())
    explorer.watch.forgive("on purpose")


def shown(state: Conversation, place: int) -> str:
    """What the heat map writes into a cell."""
    text: str = state["cells"][place]["top"][0]["text"]
    return text.replace(" ", "␣").replace("\n", "↵")
