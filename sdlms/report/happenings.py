"""What happened in a run: its events, and the warnings in its log."""

import json
import re
from collections.abc import Iterator
from typing import Any

from sdlms.report.html import Content, element, folded, grid
from sdlms.runs.reading import Run

ORDINARY = ("start", "input", "output", "log", "done")
WARNING = re.compile(r"\S+ \S+ WARNING (.*)")
MOST_WARNINGS = 20
MOST_OF_A_KIND = 10
LONGEST = 300  # characters of an event


def warnings_of(run: Run) -> Iterator[Content]:
    """The warnings that stand in the run's log, the first ones."""
    said = list(dict.fromkeys(_warnings(run)))
    if said:
        shown: list[Content] = [[element("li", line), "\n"] for line in said[:MOST_WARNINGS]]
        if len(said) > MOST_WARNINGS:
            shown.append(element("li", f"and {len(said) - MOST_WARNINGS:,} more: see its log"))
        yield element("h4", "Warnings")
        yield element("ul", shown, {"class": "alarm"})


def _warnings(run: Run) -> Iterator[str]:
    """The texts of the log's warnings, in order."""
    for record in run.all_of("log"):
        with (run.path / record["path"]).open(encoding="utf-8", errors="replace") as lines:
            yield from (found[1] for line in lines if (found := WARNING.match(line)))


def events_of(run: Run) -> Iterator[Content]:
    """Events that not every run has, such as a halved batch; the first ones of each kind."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for record in run.records:
        if record["event"] not in ORDINARY:
            kinds.setdefault(record["event"], []).append(record)
    if kinds:
        rows = [row for name, records in kinds.items() for row in _rows(name, records)]
        table = grid(f"events of {run.name}", ("event", "time", "what"), rows)
        n_events = sum(map(len, kinds.values()))
        yield folded(f"Events: {n_events:,} ({', '.join(kinds)})", table)


def _rows(name: str, records: list[dict[str, Any]]) -> Iterator[list[Content]]:
    """The events of one kind."""
    for record in records[:MOST_OF_A_KIND]:
        fields = {key: value for key, value in record.items() if key not in ("event", "time")}
        text = json.dumps(fields, ensure_ascii=False)
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        yield [name, moment(str(record.get("time", ""))), text]
    if len(records) > MOST_OF_A_KIND:
        yield [name, "", f"and {len(records) - MOST_OF_A_KIND:,} more, in meta.jsonl"]


def moment(time: str) -> str:
    """A recorded time to the second, in UTC."""
    return f"{time[:19].replace('T', ' ')} UTC" if time else ""
