"""What a report says of one run: where it comes from, its settings, tables and files."""

import json
from collections.abc import Iterator
from typing import Any

from sdlms.progress import readable_bytes, readable_seconds
from sdlms.report.commands import typed
from sdlms.report.happenings import events_of, moment, warnings_of
from sdlms.report.html import NONE, Content, Html, element, facts, folded, grid, link, section
from sdlms.report.lineage import Lineage
from sdlms.report.tables import tables_of
from sdlms.runs.reading import Run

DETAILED = ("model", "data")  # of what is resolved: they have tables of their own


def run_section(lineage: Lineage, digest: str) -> Html:
    """Everything about one run but its figures."""
    run = lineage.runs[digest]
    content: list[Content] = [
        facts(_facts(lineage, digest)),
        *warnings_of(run),
        *events_of(run),
        *tables_of(run),
        folded("Settings", _settings(run)),
        folded(f"Files: {len(_files(run)):,}", _file_table(run, digest)),
    ]
    return section(3, element("code", run.name), content, lineage.place(digest))


def subject_of(lineage: Lineage, digest: str) -> str:
    """The models that a run is about, and the control where it is one.

    A run that does not say so is about what its inputs are about.
    """
    resolved = lineage.runs[digest].start.get("resolved", {})
    model = resolved.get("model") or {}
    names = [str(model["name"])] if "name" in model else list(resolved.get("models") or {})
    if not names:
        read = [each.sha256 for each in lineage.inputs[digest] if each.sha256 in lineage.runs]
        return ", ".join(dict.fromkeys(subject_of(lineage, each) for each in read)) or NONE
    control = str(resolved.get("control", "none"))
    return ", ".join([*names, *([control] if control != "none" else [])])


def took(run: Run) -> str:
    """How long it took, in its last try."""
    seconds = run.records[-1].get("seconds")
    return readable_seconds(seconds) if isinstance(seconds, int | float) else NONE


def _facts(lineage: Lineage, digest: str) -> Iterator[tuple[str, Content]]:
    """What it is, in short."""
    run = lineage.runs[digest]
    start, decided = run.start, run.start.get("decided", {})
    yield "model", subject_of(lineage, digest)
    yield "begun", f"{moment(str(start.get('time', '')))}, took {took(run)}"
    device = decided.get("device_name") or decided.get("device")
    words = [device, decided.get("dtype"), f"{decided['threads']} threads" if decided else None]
    if device:
        yield "computed on", ", ".join(str(word) for word in words if word)
    if inputs := input_links(lineage, digest):
        yield "reads", inputs
    yield "typed as", element("code", typed(run))


def input_links(lineage: Lineage, digest: str) -> list[Content]:
    """The runs that a run has read."""
    links: list[Content] = []
    for each in lineage.inputs[digest]:
        if each.sha256 in lineage.runs:
            name = element("code", lineage.runs[each.sha256].name)
            links += [", ", link(lineage.place(each.sha256), name)]
        else:
            links += [", ", element("code", each.name), " (not at hand)"]
    return links[1:]


def _settings(run: Run) -> Content:
    """Every setting; what the inputs turned out to be; what `auto` became."""
    parts: list[Content] = []
    resolved = run.start.get("resolved", {})
    for title, values in (
        ("As they were given", run.start.get("config", {})),
        ("What they turned out to be", {k: v for k, v in resolved.items() if k not in DETAILED}),
        ("Decided", run.start.get("decided", {})),
    ):
        if values:
            parts += [element("h4", title), _named_values(f"{title}: {run.name}", values)]
    return parts


def _named_values(name: str, values: dict[str, Any]) -> Html:
    """A table of settings."""
    rows: list[list[Content]] = [
        [element("code", setting), _value(value)] for setting, value in values.items()
    ]
    return grid(name, ("name", "value"), rows)


def _value(value: Any) -> str:
    """A setting as TOML and JSON write it; none is a dash."""
    if value is None:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _files(run: Run) -> list[dict[str, Any]]:
    """What it holds, but for `meta.jsonl`."""
    return [*run.all_of("output"), *run.all_of("log")]


def _file_table(run: Run, digest: str) -> Content:
    """Files with their sizes and hashes, which were checked."""
    rows: list[list[Content]] = [
        [
            element("code", record["path"]),
            readable_bytes(record["bytes"]),
            element("code", record["sha256"]),
        ]
        for record in _files(run)
    ]
    rows.append([element("code", "meta.jsonl"), "", element("code", digest)])
    note = "All were compared with these hashes when this page was made."
    return [
        element("p", note, {"class": "note"}),
        grid(f"files of {run.name}", ("file", "size", "sha256"), rows),
    ]
