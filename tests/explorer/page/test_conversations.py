"""Conversations in the page: kept, named, deleted, stopped, and longer than the context."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from scripts.draw_explorer import draw
from tests.explorer.browser import FIRST, WIDE, Explorer, positions

pytestmark = pytest.mark.slow


def test_named_kept_and_deleted(explorer: Explorer) -> None:
    identity = explorer.server.say(FIRST)["conversation_id"]
    other = explorer.server.say(FIRST)["conversation_id"]
    explorer.open(identity)
    explorer.at("title").fill("Capitals")
    explorer.at("title").press("Enter")
    expect(explorer.at(f"conversation-{identity}")).to_have_text("Capitals")
    keep = explorer.at(f"persist-{identity}")
    keep.click()
    expect(keep).to_have_attribute("aria-pressed", "true")
    said = explorer.server.get(f"api/conversations/{identity}")
    assert (said["title"], said["persisted"]) == ("Capitals", True)

    explorer.at(f"conversation-{other}").click()
    expect(explorer.page).to_have_url(re.compile(f"conv={other}"))
    delete = explorer.at(f"delete-{identity}")
    delete.click()
    expect(delete).to_have_text("sure?")
    delete.click()
    expect(explorer.at(f"conversation-{identity}")).to_have_count(0)
    known = [each["conversation_id"] for each in explorer.server.get("api/conversations")]
    assert identity not in known
    assert other in known
    explorer.at("new-conversation").click()
    expect(explorer.page.locator(".token")).to_have_count(0)


def test_a_reply_is_as_long_as_the_settings_say_and_can_be_stopped(explorer: Explorer) -> None:
    explorer.open()
    explorer.set("max_new_tokens", "3")
    explorer.say(FIRST)
    expect(explorer.at("reply-status")).to_contain_text("3 tokens in")
    explorer.set("temperature", "5")  # nearly uniform over the vocabulary: it hardly ends by itself
    explorer.set("max_new_tokens", "400")
    explorer.at("message").fill(FIRST)
    explorer.at("message").press("Enter")
    expect(explorer.at("reply-status")).to_contain_text("writing…")
    explorer.at("abort").click()
    expect(explorer.at("send")).to_be_visible()
    expect(explorer.at("reply-status")).to_contain_text("stopped")
    explorer.page.reload()
    expect(explorer.token(0)).to_be_visible()
    shown = explorer.page.locator(".token").count()
    assert shown < 400


def test_what_left_the_prompt_is_marked_and_still_answers(explorer: Explorer) -> None:
    identity, text = None, " ".join(["the river"] * 90)
    context = explorer.server.get("api/model_info")["context"]
    for _ in range(3):
        more = {} if identity is None else {"conversation_id": identity}
        identity = explorer.server.say(text, **more)["conversation_id"]
    conversation: dict[str, Any] = explorer.server.get(f"api/conversations/{identity}")
    left = [each["position"] for each in conversation["tokens"] if not each["in_prompt"]]
    assert len(conversation["tokens"]) > context
    assert left
    explorer.open(str(identity))
    expect(explorer.at("left-divider")).to_contain_text(f"{len(left)} tokens")
    assert explorer.page.locator(".token.left").count() == len(left)
    explorer.click(positions(conversation, "user", 0)[1])
    expect(explorer.at("panel")).to_contain_text("left the prompt")


def test_the_picture_of_the_readme(explorer: Explorer, tmp_path: Path) -> None:
    draw(explorer, tmp_path / "explore.png")
    size = struct.unpack(">II", (tmp_path / "explore.png").read_bytes()[16:24])
    assert size == (WIDE["width"], WIDE["height"])
    expect(explorer.at("pins").locator("li")).to_have_count(3)
