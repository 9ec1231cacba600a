"""The page's further views in Chromium: each shows what the server says."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.explorer.browser import Explorer, positions

pytestmark = pytest.mark.slow
Conversation = dict[str, Any]
AXIS_HEIGHT = 170  # pixels of the curves' probability axis


def pin(explorer: Explorer, text: str) -> int:
    """Pin a token by its text; its id."""
    explorer.at("pin-text").fill(text)
    explorer.at("pin-add").click()
    [token] = explorer.server.get(f"api/tokens?text={text.replace(' ', '%20')}")["tokens"]
    expect(explorer.at(f"pin-{token['token_id']}")).to_be_visible()
    return int(token["token_id"])


def curve(explorer: Explorer, slot: int) -> list[tuple[float, float]]:
    """The corners of a pin's curve, in pixels."""
    line = explorer.page.locator(f"#curves polyline.pin-{slot}")
    points = (line.get_attribute("points") or "").split()
    return [(float(x), float(y)) for x, y in (each.split(",") for each in points)]


def test_pins_are_drawn_and_outlive_a_reload(explorer: Explorer, two_turns: Conversation) -> None:
    identity, position = two_turns["conversation_id"], positions(two_turns, "user", 0)[-1]
    explorer.open(identity, position)
    final = explorer.page.locator("#list-view tbody tr").first
    final.locator(".prediction").first.click()
    [first] = explorer.server.get(f"api/activations/{identity}/{position}")["states"][:1]
    ids = [first["cells"][-1]["top"][0]["token_id"], pin(explorer, " the")]
    expect(explorer.at(f"pin-{ids[0]}")).to_be_visible()
    explorer.wait_for_panel()
    answer = explorer.server.get(
        f"api/activations/{identity}/{position}?pins={ids[0]},{ids[1]}&context_size=0"
    )
    states = answer["states"][::-1]
    expect(explorer.page.locator("#curves circle.pin-0")).to_have_count(len(states))
    for slot in (0, 1):
        shares = [state["cells"][-1]["pins"][slot]["probability"] for state in states]
        xs, ys = zip(*curve(explorer, slot), strict=True)
        assert list(xs) == sorted(set(xs))
        scale = AXIS_HEIGHT  # the axis goes from 0 at the bottom to 1 at the top, where y is small
        assert [(ys[0] - y) / scale for y in ys] == pytest.approx(
            [share - shares[0] for share in shares], abs=0.002
        )
        assert slot == 1 or max(shares) > 0.2  # something to see
    linear = curve(explorer, 0)
    explorer.at("curves-scale").select_option("log")
    assert curve(explorer, 0) != linear

    explorer.page.locator("#curves-layer").fill("0")
    expect(explorer.at("curves-read-out")).to_contain_text("After embedding")
    assert f"pins={ids[0]},{ids[1]}" in explorer.page.url
    explorer.page.reload()
    expect(explorer.page.locator("#curves circle.pin-1")).to_have_count(len(states))
    explorer.at(f"pin-{ids[0]}").get_by_role("button").click()
    expect(explorer.page.locator("#curves circle.pin-0")).to_have_count(0)
    expect(explorer.page.locator("#curves circle.pin-1")).to_have_count(len(states))


def test_without_a_pin_the_final_and_the_actual_token_are_drawn(
    explorer: Explorer, two_turns: Conversation
) -> None:
    identity = two_turns["conversation_id"]
    asked = [positions(two_turns, "user", 0)[-2], positions(two_turns, "user", 2)[-3]]
    for position in asked:  # within a question the model rarely guesses what comes
        explorer.open(identity, position)
        answer = explorer.server.get(f"api/activations/{identity}/{position}?context_size=0")
        cell = answer["states"][0]["cells"][0]
        [top, following] = [cell["top"][0]["token_id"], cell["next"]["token_id"]]
        known = explorer.server.get(
            f"api/activations/{identity}/{position}?context_size=0&pins={top},{following}"
        )["states"][::-1]
        legend = explorer.page.locator("#curves .curve-legend")
        expect(legend).to_contain_text("final top-1")
        expect(legend).to_contain_text("actual next")
        wanted = {"curve-top": 0, "curve-next": 1} if top != following else {"curve-top": 0}
        for style, place in wanted.items():
            expect(explorer.page.locator(f"#curves circle.{style}")).to_have_count(len(known))
            line = explorer.page.locator(f"#curves polyline.{style}")
            points = [each.split(",") for each in (line.get_attribute("points") or "").split()]
            heights = [(float(points[0][1]) - float(y)) / AXIS_HEIGHT for _, y in points]
            shares = [state["cells"][0]["pins"][place]["probability"] for state in known]
            assert heights == pytest.approx([share - shares[0] for share in shares], abs=0.002)
    explorer.page.locator("#list-view tbody tr").first.locator(".prediction").first.click()
    expect(explorer.page.locator("#curves circle.pin-0")).not_to_have_count(0)
    expect(explorer.page.locator("#curves .curve-top")).to_have_count(0)


def test_states_that_are_rounded_to_8_bits_are_named(
    explorer: Explorer, two_turns: Conversation
) -> None:
    def int8(route: Route) -> None:
        info = explorer.server.get("api/model_info") | {"store_hidden": "int8"}
        route.fulfill(json=info)

    explorer.open(two_turns["conversation_id"], 5)
    expect(explorer.at("store-hidden")).to_have_count(0)
    explorer.page.route("**/api/model_info", int8)
    explorer.page.reload()
    explorer.wait_for_panel()
    expect(explorer.at("store-hidden")).to_contain_text("int8")


def test_a_link_with_pins_names_them_in_another_browser(
    explorer: Explorer, two_turns: Conversation
) -> None:
    token = explorer.server.get("api/tokens?text=the")["tokens"][0]
    address = f"#conv={two_turns['conversation_id']}&pos=5&pins={token['token_id']},99999999"
    explorer.page.goto(explorer.server.url + address)
    chip = explorer.at(f"pin-{token['token_id']}")
    expect(chip).to_contain_text(token["text"])
    expect(explorer.at("pins").locator("li")).to_have_count(1)
    explorer.watch.forgive("422")


def test_of_several_tokens_one_is_chosen(explorer: Explorer, two_turns: Conversation) -> None:
    explorer.open(two_turns["conversation_id"], 5)
    tokens = explorer.server.get("api/tokens?text=zebra%20Kant")["tokens"]
    assert len(tokens) > 1
    explorer.at("pin-text").fill("zebra Kant")
    explorer.at("pin-text").press("Enter")
    choices = explorer.page.locator("#pins .choice")
    expect(choices).to_have_count(len(tokens))
    choices.nth(1).click()
    expect(explorer.at(f"pin-{tokens[1]['token_id']}")).to_be_visible()
    expect(choices).to_have_count(0)


def test_two_positions_side_by_side(explorer: Explorer, two_turns: Conversation) -> None:
    identity = two_turns["conversation_id"]
    first, second = positions(two_turns, "user", 0)[-1], positions(two_turns, "user", 2)[-1]
    explorer.open(identity, first)
    explorer.token(second).click(modifiers=["Shift"])
    table = explorer.at("compare")
    panels = [explorer.server.get(f"api/activations/{identity}/{p}") for p in (first, second)]
    expect(table.locator("tbody tr")).to_have_count(panels[0]["n_states"])
    tops = [[s["cells"][-1]["top"][0]["token_id"] for s in panel["states"]] for panel in panels]
    expect(table.locator("td").nth(2 * panels[0]["n_states"] - 1)).not_to_have_text("…")
    classes = table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.className)")
    assert ["is-different" in each for each in classes] == [
        one != other for one, other in zip(*tops, strict=True)
    ]
    decided = [panel["decided_at"][-1] for panel in panels]
    for layer in decided:
        name = "the embedding" if layer < 0 else f"block {layer}"
        expect(explorer.at("compare-decided")).to_contain_text(name)
    explorer.at("compare-position").fill(str(first))
    explorer.at("compare-go").click()
    expect(explorer.page.locator("#compare .is-different")).to_have_count(0)
    expect(explorer.at("compare-decided")).to_contain_text("Both")


def test_attention_by_layer_and_head(explorer: Explorer, two_turns: Conversation) -> None:
    identity, position = two_turns["conversation_id"], positions(two_turns, "user", 2)[-1]
    explorer.open(identity, position)
    asked: list[str] = []
    explorer.page.on("request", lambda request: asked.append(request.url))
    explorer.opened("attention")
    rows = explorer.page.locator("#attention tr.mean-row")
    answer = explorer.server.get(f"api/attention/{identity}/{position}")
    expect(rows).to_have_count(len(answer["layers"]))
    assert sum("/attention/" in url for url in asked) == 1
    last = answer["layers"][-1]
    weights = [sum(column) / len(last["heads"]) for column in zip(*last["heads"], strict=True)]
    titles = rows.first.locator("td").evaluate_all("cells => cells.map(cell => cell.title)")
    expected = [*weights[-16:], sum(weights[:-16])]
    assert [float(title.removesuffix(" %")) for title in titles] == pytest.approx(
        [100 * weight for weight in expected], abs=0.006
    )
    explorer.at("attention-columns").select_option("strong")
    shown = rows.first.locator("td").evaluate_all("cells => cells.map(cell => cell.title)")
    assert len(shown) == 17
    heads = explorer.page.locator("#attention tr.head-row")
    expect(heads.first).to_be_hidden()
    explorer.at(f"attention-layer-{last['layer']}").click()
    expect(heads.locator("visible=true")).to_have_count(len(last["heads"]))


def test_search_selects_what_it_finds(explorer: Explorer, two_turns: Conversation) -> None:
    identity = two_turns["conversation_id"]
    explorer.open(identity)
    explorer.wait_for_rows(identity)
    top = explorer.server.get(f"api/activations/{identity}/6?context_size=0")["states"][0]
    text = top["cells"][-1]["top"][0]["text"]
    explorer.opened("search")
    explorer.at("search-text").fill(text)
    explorer.at("search-least").fill("0.01")
    explorer.at("search-go").click()
    found = explorer.server.get(f"api/search/{identity}?token_id={top_id(top)}&least=0.01")
    matches = explorer.at("matches").get_by_role("button")
    expect(matches).to_have_count(len(found["matches"]))
    places = matches.evaluate_all("all => all.map(one => Number(one.dataset.position))")
    assert places == [match["position"] for match in found["matches"]]
    assert 6 in places
    matches.first.click()
    expect(explorer.page).to_have_url(re.compile(f"pos={places[0]}(&|$)"))
    explorer.wait_for_panel()


def top_id(state: dict[str, Any]) -> int:
    return int(state["cells"][-1]["top"][0]["token_id"])


def test_a_reply_goes_on_from_another_token(explorer: Explorer, two_turns: Conversation) -> None:
    identity, position = two_turns["conversation_id"], positions(two_turns, "assistant", 1)[1]
    explorer.open(identity, position)
    explorer.opened("regenerate")
    choices = explorer.at("alternatives").get_by_role("button")
    final = explorer.server.get(f"api/activations/{identity}/{position - 1}")["states"][0]
    taken = two_turns["tokens"][position]["id"]
    expected = [t["token_id"] for t in final["cells"][-1]["top"] if t["token_id"] != taken]
    ids = choices.evaluate_all("all => all.map(one => one.dataset.testid)")
    assert ids == [f"alternative-{each}" for each in expected]
    choices.first.click()
    explorer.wait_for_reply()
    identity_new = re.search(r"conv=([\w-]+)", explorer.page.url)
    assert identity_new is not None
    assert identity_new[1] != identity
    made = explorer.server.get(f"api/conversations/{identity_new[1]}")["tokens"]
    kept = [token["id"] for token in two_turns["tokens"][:position]]
    assert [token["id"] for token in made[: position + 1]] == [*kept, expected[0]]
    assert len(made) > position + 1
    expect(explorer.page.locator(".token")).to_have_count(len(made))
    old = explorer.server.get(f"api/conversations/{identity}")["tokens"]
    assert [token["id"] for token in old] == [token["id"] for token in two_turns["tokens"]]


def test_only_a_token_of_a_reply_can_be_another(
    explorer: Explorer, two_turns: Conversation
) -> None:
    explorer.open(two_turns["conversation_id"], positions(two_turns, "user", 0)[0])
    explorer.opened("regenerate")
    expect(explorer.at("regenerate-status")).to_contain_text("Only a token of a reply")
    expect(explorer.at("alternatives").get_by_role("button")).to_have_count(0)
    expect(explorer.at("regenerate-text")).to_be_hidden()


def test_exports_are_whole(explorer: Explorer, two_turns: Conversation, tmp_path: Path) -> None:
    explorer.open(two_turns["conversation_id"])
    explorer.wait_for_rows(two_turns["conversation_id"])
    explorer.opened("exports")
    texts = {}
    for kind in ("json", "csv", "html"):
        with explorer.page.expect_download() as caught:
            explorer.at(f"export-{kind}").click()
        assert caught.value.suggested_filename.endswith(f".{kind}")
        caught.value.save_as(tmp_path / f"export.{kind}")
        texts[kind] = (tmp_path / f"export.{kind}").read_text("utf-8")
    said = json.loads(texts["json"])
    assert [token["id"] for token in said["tokens"]] == [t["id"] for t in two_turns["tokens"]]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    n_states = len(explorer.server.get("api/model_info")["states"])
    # The last token has no row yet: what follows it is not known.
    rows = [row for row in rows if row["lens"] == "logit"]
    assert len(rows) == n_states * (len(two_turns["tokens"]) - 1)
    page = explorer.page.context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "export.html").as_uri())
    assert "capital of France" in page.locator("body").inner_text()
    assert asked == [(tmp_path / "export.html").as_uri()]


def test_the_overview_is_a_slider_over_the_conversation(
    explorer: Explorer, two_turns: Conversation
) -> None:
    identity, count = two_turns["conversation_id"], len(two_turns["tokens"])
    explorer.open(identity)
    explorer.wait_for_rows(identity)
    strip = explorer.page.get_by_role("slider", name="Token of the conversation")
    expect(strip).to_be_visible()
    box = strip.bounding_box()
    assert box is not None
    strip.click(position={"x": box["width"] * 7.5 / count, "y": 5})
    expect(explorer.page).to_have_url(re.compile("pos=7(&|$)"))
    overview = explorer.server.get(f"api/overview/{identity}")
    layer = overview["decided_at"][overview["positions"].index(7)]
    name = "the embedding" if layer < 0 else f"block {layer}"
    expect(strip).to_have_attribute("aria-valuetext", re.compile(f"decided at {name}$"))
    strip.press("End")
    expect(strip).to_have_attribute("aria-valuenow", str(count - 1))
    strip.press("PageUp")
    expect(strip).to_have_attribute("aria-valuenow", str(count - 11))
    painted = strip.evaluate(
        "canvas => new Set(canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data).size"
    )
    assert painted > 2
