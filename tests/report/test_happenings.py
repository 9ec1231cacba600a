from pathlib import Path

from sdlms.progress import LOGGER
from sdlms.report.happenings import (
    MOST_OF_A_KIND,
    MOST_WARNINGS,
    events_of,
    moment,
    warnings_of,
)
from sdlms.report.html import markup_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.report.test_html import HOSTILE, Seen


def eventful(artifacts: Path, n_events: int, warnings: list[str]) -> Run:
    with RunWriter("tiny", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        for number in range(n_events):
            out.event("document_truncated", number=number, text=HOSTILE)
        for warning in warnings:
            LOGGER.warning(warning)
        LOGGER.info("nothing to warn of")
    return Run(out.path)


def test_warnings_of_the_log_are_shown_once_each(tmp_path: Path) -> None:
    run = eventful(tmp_path, 0, ["first", "second", "first", HOSTILE])
    seen = Seen(markup_of(warnings_of(run)))
    assert seen.tags.count("li") == 3
    assert all(text in seen.text for text in ("first", "second", HOSTILE))
    assert "nothing to warn of" not in seen.text
    assert "script" not in seen.tags


def test_many_warnings_are_counted(tmp_path: Path) -> None:
    run = eventful(tmp_path, 0, [f"warning {number}" for number in range(MOST_WARNINGS + 7)])
    seen = Seen(markup_of(warnings_of(run)))
    assert seen.tags.count("li") == MOST_WARNINGS + 1
    assert "and 7 more" in seen.text


def test_events_are_counted_and_the_first_ones_shown(tmp_path: Path) -> None:
    seen = Seen(markup_of(events_of(eventful(tmp_path, MOST_OF_A_KIND + 5, []))))
    assert seen.tags.count("tr") == 1 + MOST_OF_A_KIND + 1
    assert f"Events: {MOST_OF_A_KIND + 5} (document_truncated)" in seen.text
    assert "and 5 more, in meta.jsonl" in seen.text
    assert "script" not in seen.tags


def test_nothing_happened(tmp_path: Path) -> None:
    run = eventful(tmp_path, 0, [])
    assert markup_of(events_of(run)) == markup_of(warnings_of(run)) == ""


def test_moments_are_whole_seconds() -> None:
    assert moment("2026-11-21T17:05:26.229343+00:00") == "2026-11-21 17:05:26 UTC"
    assert moment("") == ""
