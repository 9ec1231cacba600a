"""What the page never does, and that everybody can use it: names, contrast, narrow screens."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.explorer.browser import NARROW, WIDE, Explorer, positions

pytestmark = pytest.mark.slow
Conversation = dict[str, Any]
SCRIPT = '<img src=x onerror="window.isHacked = true"> <script>window.isHacked = true</script>'
TOOLS = ("search", "exports", "curves", "compare", "attention", "regenerate")
NAMED = {
    *("button", "checkbox", "combobox", "link", "listbox", "menuitem", "radio", "searchbox"),
    *("slider", "spinbutton", "switch", "tab", "textbox", "DisclosureTriangle", "image", "img"),
}
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 (AA)
# What is seen and wider than the window, unless something around it scrolls or clips.
TOO_WIDE = """() => {
  const roots = [null, document.body, document.documentElement];
  const isClipping = (node) => /auto|scroll|hidden|clip/.test(getComputedStyle(node).overflowX);
  const clips = (node) => !roots.includes(node) && (isClipping(node) || clips(node.parentElement));
  return [...document.body.querySelectorAll("*")]
    .filter((node) => node.checkVisibility() && !node.closest(".unseen, .skip"))
    .map((node) => [node, node.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.right > innerWidth + 1 || box.left < -1))
    .map(([node]) => node)
    .filter((node) => !clips(node.parentElement))
    .map((node) => `${node.tagName}#${node.id}.${node.getAttribute("class")}`);
}"""
# The contrast of every text with what it stands on, the smallest first.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, n) => c * a + under[n] * (1 - a));
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const colour = rgba(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(node.parentElement));
  };
  const luminance = (rgb) => rgb
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ownText = (node) => [...node.childNodes]
    .some((child) => child.nodeType === 3 && child.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((node) => ownText(node) && node.checkVisibility({ opacityProperty: true }))
    .filter((node) => !node.closest(":disabled, .unseen, .skip"))
    .map((node) => {
      const style = getComputedStyle(node);
      const under = behind(node);
      const isDrawn = node instanceof SVGElement;
      const text = over(rgba(isDrawn ? style.fill : style.color), under);
      const [low, high] = [luminance(text), luminance(under)].sort((a, b) => a - b);
      const name = `${node.tagName}.${node.getAttribute("class")} ${node.textContent.slice(0, 20)}`;
      return [(high + 0.05) / (low + 0.05), name];
    })
    .sort((one, other) => one[0] - other[0]);
}"""


@pytest.fixture
def everything(explorer: Explorer, two_turns: Conversation) -> Iterator[Explorer]:
    """The page with a token selected, two pins, another token to compare, and all tools open."""
    place = positions(two_turns, "assistant", 3)[0]
    token = explorer.server.get("api/tokens?text=the")["tokens"][0]["token_id"]
    explorer.open(f"{two_turns['conversation_id']}&pins={token},5", place)
    explorer.token(4).click(modifiers=["Shift"])
    for tool in TOOLS[2:]:
        explorer.opened(tool)
    expect(explorer.page.locator("#attention tr.mean-row").first).to_be_visible()
    expect(explorer.page.locator("#compare td").first).to_be_visible()
    expect(explorer.at("alternatives").get_by_role("button").first).to_be_visible()
    yield explorer


def test_markup_of_both_sides_is_text(explorer: Explorer) -> None:
    turns = [{"role": role, "content": SCRIPT} for role in ("user", "assistant")]
    said = explorer.server.say(SCRIPT, messages=turns)
    identity = said["conversation_id"]
    explorer.open(identity)
    explorer.say(SCRIPT)
    tokens = explorer.server.get(f"api/conversations/{identity}")["tokens"]
    markup = [token["position"] for token in tokens if "<" in token["text"]]
    assert {tokens[n]["role"] for n in markup} >= {"user", "assistant"}
    for place in (markup[0], markup[-1]):
        explorer.click(place)
    for view in ("heatmap", "list"):
        explorer.at(f"view-{view}").click()
    explorer.at("pin-text").fill("<img")
    explorer.at("pin-add").click()
    explorer.opened("search")
    explorer.at("search-text").fill(tokens[markup[0]]["text"])
    explorer.at("search-go").click()
    expect(explorer.at("search-status")).to_contain_text("<")
    for role, message in (("user", 0), ("assistant", 1), ("user", 2)):
        shown = explorer.page.locator(f"[data-message='{message}'] .token").all_inner_texts()
        assert SCRIPT.replace(" ", "") in "".join(shown).replace(" ", ""), role
    assert explorer.page.evaluate("window.isHacked") is None
    assert explorer.page.locator("img, body script").count() == 0


def test_an_exported_page_runs_nothing(explorer: Explorer) -> None:
    identity = explorer.server.say(SCRIPT)["conversation_id"]
    explorer.page.goto(explorer.server.url + "favicon.ico")
    html = explorer.page.evaluate(
        "address => fetch(address).then(reply => reply.text())",
        f"/api/export/{identity}?format=html",
    )
    page = explorer.page.context.new_page()
    page.set_content(html)
    page.wait_for_timeout(100)
    assert "onerror" in page.locator("body").inner_text()
    assert page.evaluate("window.isHacked") is None
    assert page.locator("img").count() == 0


def test_every_control_has_a_name(everything: Explorer) -> None:
    everything.at("settings").click()
    session = everything.page.context.new_cdp_session(everything.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in NAMED]
    nameless = [node for node in seen if not node.get("name", {}).get("value", "").strip()]
    assert len(seen) > 100
    assert nameless == []


def test_nothing_is_wider_than_the_window(everything: Explorer) -> None:
    for size, view in product((WIDE, NARROW), ("list", "heatmap")):
        everything.page.set_viewport_size(size)
        everything.at(f"view-{view}").click()
        width = everything.page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= size["width"], (size, view)
        for tool in (None, *TOOLS[:2]):
            if tool:
                everything.opened(tool)
            assert everything.page.evaluate(TOO_WIDE) == [], (size, view, tool)
            if tool:
                everything.page.keyboard.press("Escape")


def test_every_text_can_be_read(everything: Explorer) -> None:
    everything.opened("search")
    for theme, view in product(("light", "dark"), ("list", "heatmap")):
        everything.page.emulate_media(color_scheme=theme)
        everything.at(f"view-{view}").click()
        contrasts = everything.page.evaluate(CONTRASTS)
        assert len(contrasts) > 200, (theme, view)
        assert [each for each in contrasts if each[0] < LEAST_CONTRAST] == [], (theme, view)


def test_the_checks_of_the_page_see_what_they_look_for(explorer: Explorer) -> None:
    explorer.open()
    explorer.page.evaluate(
        """() => {
          const pale = document.createElement("p");
          pale.textContent = "pale";
          pale.style.setProperty("color", "#bbb");
          const wide = document.createElement("p");
          wide.style.setProperty("width", "5000px");
          wide.style.setProperty("height", "1px");
          document.body.append(pale, wide);
        }"""
    )
    assert explorer.page.evaluate(CONTRASTS)[0][0] < LEAST_CONTRAST
    assert len(explorer.page.evaluate(TOO_WIDE)) == 1
    explorer.page.evaluate("import('https://example.invalid/a.js').catch(() => {})")
    explorer.page.wait_for_function("window.violations.length > 0")
    assert any("policy" in each for each in explorer.watch.complaints())
    explorer.page.evaluate("window.violations = []")
    explorer.watch.forgive("example.invalid")
