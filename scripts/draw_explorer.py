"""Draw the README's picture of `sdlms explore`: a conversation with the embedded model.

Run it from the repository root: `python -m scripts.draw_explorer`. It needs a Chromium.
"""

import tempfile
from pathlib import Path

from tests.explorer.browser import WIDE, Explorer, Server, launched

TARGET = Path(__file__).resolve().parent.parent / "docs/figures/explore.png"
TURNS = ("What is the capital of France?", "What is the capital of Italy?")
CLICKED = " is"  # the token of the last reply whose layers are shown
PINS = (" Rome", " Paris", " Berlin")


def draw(explorer: Explorer, target: Path) -> None:
    """Talk, click the token before the answer, pin three capitals, and take the picture."""
    explorer.open()
    for text in TURNS:
        explorer.say(text)
    tokens = explorer.page.locator(".token:not(.template)")
    texts = tokens.evaluate_all("all => all.map(one => [one.dataset.position, one.textContent])")
    clicked = next((int(place) for place, text in texts[::-1] if text == CLICKED), len(texts) - 2)
    explorer.click(clicked)
    for text in PINS:
        explorer.at("pin-text").fill(text)
        explorer.at("pin-text").press("Enter")
        explorer.page.locator("#pins .pin", has_text=text.strip()).wait_for()
    explorer.wait_for_panel()
    identity = explorer.server.get("api/conversations")[0]["conversation_id"]
    explorer.wait_for_rows(identity)
    explorer.page.reload()
    explorer.page.wait_for_load_state("networkidle")
    explorer.at("view-heatmap").click()
    explorer.wait_for_panel()
    explorer.page.screenshot(path=target)


def main() -> None:
    """Draw the picture in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        server = Server(Path(folder) / "explore", "sdlms-medium")
        server.start()
        try:
            page = browser.new_page(viewport=WIDE, color_scheme="light")
            draw(Explorer(page, server), TARGET)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
