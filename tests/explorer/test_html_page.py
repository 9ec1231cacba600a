"""The exported page: nothing of it but its own script is ever run."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sdlms.explorer import html_page
from sdlms.explorer.service import Explorer
from tests.explorer.browser import launched
from tests.explorer.explorers import click, n_tokens_of, running, say, small_model, two_turns

ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]> &lt;b&gt; \u2028 'quote' \"double\"",
]


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}  # of scripts, by id
        self.tokens: list[str] = []
        self._inside: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = (tag, dict(attrs))
        self.elements.append(self._inside)
        if tag == "button":
            self.tokens.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            return
        tag, attributes = self._inside
        if tag == "script":
            name = attributes.get("id") or ""
            self.texts[name] = self.texts.get(name, "") + data
        if tag == "button":
            self.tokens[-1] += data


def exported(explorer: Explorer, talk: str) -> tuple[str, Page]:
    text = "".join(explorer.export(talk, "html"))
    return text, Page(text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_was_said_is_text(attack: str) -> None:
    with running(small_model()) as explorer:
        talk = say(explorer, attack)["conversation_id"]
        assert explorer.wait_until_filled(30)
        text, page = exported(explorer, talk)
        tokens = explorer.conversation(talk)["tokens"]
    names = [name for name, _ in page.elements]
    assert names.count("script") == 3
    assert not {"img", "iframe", "object", "link", "base", "form", "svg"} & set(names)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert page.tokens == [token["text"] or f"⟨{token['pieces']}⟩" for token in tokens]
    assert attack in "".join(token["text"] for token in tokens)
    assert "http://" not in text.replace("http-equiv", "")
    assert "https://" not in text


def test_the_policy_allows_the_script_and_nothing_else() -> None:
    with running(small_model()) as explorer:
        _, page = exported(explorer, two_turns(explorer))
    policy = next(a["content"] or "" for n, a in page.elements if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.texts[""].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert "innerHTML" not in page.texts[""]


def test_each_token_has_its_layers() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        _, page = exported(explorer, talk)
        _, states = click(explorer, talk, 20, context_size=0)
        n_tokens = n_tokens_of(explorer, talk)
    data, texts = json.loads(page.texts["rows"]), json.loads(page.texts["texts"])
    assert data["states"] == ["embedding", "block 0", "block 1", "block 2"]
    assert [int(position) for position in data["logit"]] == list(range(n_tokens - 1))
    for row, state in zip(data["logit"]["20"], states, strict=True):
        top = state["cells"][0]["top"][: html_page.N_TOP]
        assert row[0] == [each["token_id"] for each in top]
        assert [texts[str(token_id)] for token_id in row[0]] == [each["text"] for each in top]
        assert row[1] == pytest.approx([each["probability"] for each in top], abs=1e-5)
        assert row[4] == pytest.approx(state["cells"][0]["next"]["probability"], abs=1e-5)


def test_of_a_long_conversation_the_last_tokens_have_their_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(html_page, "LARGEST_ROWS", 4 * 10)
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        text, page = exported(explorer, talk)
        n_tokens = n_tokens_of(explorer, talk)
    rows = json.loads(page.texts["rows"])["logit"]
    assert [int(position) for position in rows] == list(range(n_tokens - 10, n_tokens - 1))
    assert len(page.tokens) == n_tokens
    assert f"from position {n_tokens - 10} on" in text


@pytest.mark.slow
def test_a_browser_shows_the_layers_and_runs_nothing_else(tmp_path: Path) -> None:
    saved = tmp_path / "talk.html"
    with running(small_model()) as explorer:
        talk = say(explorer, " ".join(ATTACKS))["conversation_id"]
        assert explorer.wait_until_filled(30)
        saved.write_text("".join(explorer.export(talk, "html")))
    happened: list[str] = []
    with launched() as browser:
        page = browser.new_page()
        page.on("console", lambda message: happened.append(message.text))
        page.on("pageerror", lambda error: happened.append(str(error)))
        page.on("dialog", lambda dialog: (happened.append("dialog"), dialog.dismiss()))
        page.goto(saved.as_uri())
        page.click("[data-position='9']")
        assert page.inner_text("#panel h2").startswith("After token 9:")
        assert page.locator("#panel tr").count() == 5
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#panel h2").startswith("After token 10:")
    assert not happened
