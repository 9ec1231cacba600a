"""The page as a whole, read by a parser and by a Chromium."""

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from sdlms.figures.images import Picture
from sdlms.report.lineage import Lineage, lineage_of
from sdlms.report.page import page, stages_of
from sdlms.report.pictures import Drawn
from sdlms.runs.reading import Run
from tests.explorer.browser import NARROW, WATCH_POLICY, WIDE, launched
from tests.report.test_html import HOSTILE, Seen
from tests.runs.small_runs import make_run
from tests.scaling.small_runs import written

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="90"></svg>'
PICTURE = Picture("image/svg+xml", SVG, 900, 90)


def hostile_run(work: Path, *inputs: Run) -> Run:
    """A run in which everything that others may choose is markup."""
    columns = [HOSTILE, *(f"column_{number}" for number in range(40))]
    rows = [dict.fromkeys(columns, HOSTILE)] * 30
    model = {"name": HOSTILE, "weights": {HOSTILE: HOSTILE}, "n_layers": 1, "n_parameters": 1}
    data = [{"task": HOSTILE, "sources": {HOSTILE: HOSTILE}, "datasets": [{"dataset": HOSTILE}]}]
    resolved = {"model": model, "data": data, HOSTILE: HOSTILE}
    decided = {"device": HOSTILE, "threads": 1, "dtype": HOSTILE}
    config = {HOSTILE: HOSTILE, "texts": [HOSTILE]}
    tables = {"table <b>.csv": (columns, rows)}
    return written(work, "<img src=x onerror=alert(1)>", config, resolved, tables, decided=decided)


def shown(lineage: Lineage) -> bytes:
    """A page with one picture, and one that is not there."""
    run = next(iter(lineage.runs.values()))
    drawn = [Drawn(HOSTILE, (run,), PICTURE, ""), Drawn(HOSTILE, (run,), None, HOSTILE)]
    return page(HOSTILE, lineage, {run.stage: drawn})


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    work = tmp_path_factory.mktemp("runs")
    base = hostile_run(work)
    return lineage_of([make_run(work / "artifacts", inputs=(base,))])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@pytest.fixture
def opened(browser: Browser, lineage: Lineage, tmp_path: Path) -> Iterator[Page]:
    """The page in a browser of 400 pixels."""
    file = tmp_path / "report.html"
    file.write_bytes(shown(lineage))
    context = browser.new_context(viewport=NARROW, color_scheme="dark")
    context.add_init_script(WATCH_POLICY)
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto(file.as_uri())
    yield page
    context.close()


def test_the_page_holds_no_markup_but_its_own(lineage: Lineage) -> None:
    content = shown(lineage).decode()
    seen = Seen(content)
    assert not {"script", "iframe", "link", "form", "object"} & set(seen.tags)
    assert HOSTILE not in content and seen.tags.count("img") == 1
    assert seen.tags.count("html") == seen.tags.count("main") == 1
    assert seen.tags.count("section") == seen.tags.count("/section")
    assert not re.search(r"""\s(style|on\w+)=["']""", re.sub('data:[^"]*', "", content))


def test_the_policy_allows_the_page_its_own_style_alone(lineage: Lineage) -> None:
    content = shown(lineage).decode()
    (style,) = re.findall("<style>(.*?)</style>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', content)
    assert html.unescape(policy) == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert "url(" not in style and "@import" not in style


def test_links_lead_to_places_that_exist_once(lineage: Lineage) -> None:
    content = shown(lineage).decode()
    places = re.findall(r' id="([^"]*)"', content)
    assert len(places) == len(set(places))
    assert {target for target in re.findall(r'href="#([^"]*)"', content)} <= set(places)
    assert "http" not in "".join(re.findall(r' (?:href|src)="([^"]{0,40})', content))


def test_the_same_runs_give_the_same_page(lineage: Lineage) -> None:
    assert shown(lineage) == shown(lineage)
    again = lineage_of([Run(run.path) for run in lineage.runs.values()][::-1])
    assert page("t", again, {}) != page("u", again, {})
    assert shown(Lineage(again.runs, lineage.named, again.inputs)) == shown(lineage)


def test_what_is_missing_is_said(lineage: Lineage, tmp_path: Path) -> None:
    base = make_run(tmp_path / "runs", label="base")
    run = make_run(tmp_path / "runs", inputs=(base,))
    base.path.rename(tmp_path / "gone")
    text = Seen(page("title", lineage_of([run]), {}).decode()).text
    assert f"{base.name} (not at hand)" in text
    assert "not at hand, so this page lacks them" in text
    assert "Not drawn" in Seen(shown(lineage).decode()).text


def test_stages_stand_in_the_order_of_the_study(tmp_path: Path) -> None:
    names = ("scaling", "zebra", "capture", "apple", "probe")
    runs = [make_run(tmp_path, name) for name in names]
    assert stages_of(runs) == ["capture", "probe", "scaling", "apple", "zebra"]


def test_a_browser_shows_it_whole(opened: Page) -> None:
    assert opened.evaluate("violations") == []
    assert opened.title().startswith("<script>")
    assert opened.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    assert opened.evaluate("document.images.length") == 1
    dark = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.emulate_media(color_scheme="light")
    assert dark != opened.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nothing_is_wider_than_the_window(opened: Page, width: dict[str, int]) -> None:
    opened.set_viewport_size(width)  # type: ignore[arg-type]
    opened.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert opened.evaluate("document.documentElement.scrollWidth") == width["width"]
    wide = "[...document.querySelectorAll('.scroller')].some((e) => e.scrollWidth > e.clientWidth)"
    assert opened.evaluate(wide)  # the table, which scrolls by itself


def test_paper_shows_what_is_folded(opened: Page) -> None:
    closed = opened.evaluate("document.documentElement.scrollHeight")
    cell = opened.locator("details td").first
    assert not cell.is_visible()
    opened.emulate_media(media="print")
    assert cell.is_visible()
    assert opened.evaluate("document.documentElement.scrollHeight") > closed
    assert opened.evaluate("getComputedStyle(document.body).colorScheme") == "light"
