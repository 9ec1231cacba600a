"""The pages say what the code writes, link what is there, and name every command."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from sdlms.cli import NAMED, app
from tests.formats_page import (
    ROOT,
    attributes_of,
    columns_of,
    datasets_of,
    first_cells,
    quoted,
    rows_of,
    section,
)
from tests.written_files import hdf5_contents, table_columns

PAGES = sorted(
    path
    for folder in (".", "docs", "data", "scripts", "benchmarks", "notebooks")
    for pattern in (f"{folder}/*.md", f"{folder}/*.ipynb")
    for path in ROOT.glob(pattern)
)
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)\n\n(\*?)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = ("http://", "https://", "mailto:")
COMMANDS = sorted({*NAMED, "pipeline", "explore", "runs", "models"})
# No files of runs: two that exist only while one is written, and an example in a docstring.
NO_OUTPUTS = {"mean.h5", "scores.h5", "table.csv"}
# Columns that say which row it is, how much was read, or why something is missing.
NO_METRICS = {
    *("layer", "site", "task", "kind", "label", "seed", "lens", "rule", "k", "phase", "backend"),
    *("scope", "member", "model", "stage", "metric", "unit", "relative_depth", "run", "control"),
    *("n_documents", "n_tokens", "documents", "tokens", "n_units", "units", "scored", "width"),
    *("units_dead", "units_rare", "units_scored", "dead", "rare", "community", "preferred_task"),
    *("threshold", "threshold_rule", "resolution", "selection", "sets", "n_neurons", "fired"),
    *("evaluated_task", "ablated_task", "n_train", "n_test", "converged", "target", "target_id"),
    *("document", "document_id", "document_number", "text_end", "token", "random_sets", "reading"),
    *("in_task_documents", "in_task_tokens", "off_task_documents", "off_task_tokens"),
    *("architecture", "coefficient", "d_in", "expansion", "steps", "best_step", "ended", "step"),
    *("selected", "screened", "split", "measured", "cross_entropy", "ce_tokens", "ce_documents"),
    *("lr", "preferring", "reason", "SI_reason", "Q_reason", "warning", "n_parameters", "n_layers"),
    *("value", "low", "high", "n_models", "n_missing", "smallest_model", "largest_model"),
    *("value_of_smallest", "value_of_largest", "value_least", "value_most"),
}


def prose(path: Path) -> str:
    """A page without its fenced blocks, or the text of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return FENCED.sub("", text)


def anchors(path: Path) -> set[str]:
    """The anchors that headings of a page get, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", LINK.sub("", heading).lower()).replace(" ", "-")
        number = next(n for n in range(1000) if (f"{plain}-{n}" if n else plain) not in found)
        found.add(f"{plain}-{number}" if number else plain)
    return found


def broken_links(path: Path) -> Iterator[str]:
    """Links of a page that lead nowhere in the tree."""
    for target in LINK.findall(prose(path)):
        if target.startswith(ELSEWHERE):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and anchor not in anchors(place)):
            yield target


def named(text: str) -> set[str]:
    """Every word that stands in backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_links_lead_somewhere(path: Path) -> None:
    assert not list(broken_links(path))


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c?\n[x](page.md#a-b-c) [y](#no) [z](gone.md)\n```\n[q](no.md)\n```\n")
    assert list(broken_links(page)) == ["#no", "gone.md"]


def test_every_page_is_reached() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(prose(page))]
        targets = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        waiting.extend(targets - reached - set(waiting))
    assert set(ROOT.glob("docs/*.md")) <= reached


def page_of(command: str) -> Path:
    """The page that the README names for a command."""
    page = re.search(rf"\[`sdlms {command}`\]\((docs/[^)#]+\.md)", prose(ROOT / "README.md"))
    assert page, f"README links no page of sdlms {command}"
    return ROOT / page[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page(command: str) -> None:
    assert f"sdlms {command}" in page_of(command).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted({page_of(stage) for stage in NAMED}), ids=lambda p: p.stem)
def test_the_page_of_a_stage_has_its_picture_with_words(page: Path) -> None:
    pictures = PICTURE.findall(prose(page))
    assert pictures
    for alternative, file, caption in pictures:
        assert alternative and caption, file
        assert (page.parent / file).read_bytes().startswith(b"\x89PNG"), file


def test_no_picture_is_left_over() -> None:
    shown = {(page.parent / file).resolve() for page in PAGES for file in LINK.findall(prose(page))}
    assert set((ROOT / "docs/figures").iterdir()) <= shown


def test_the_steps_of_the_demo_are_described() -> None:
    """By name, those that begin alike as `capture-small`, `-medium`; with files that runs hold."""
    demo = tomllib.loads((ROOT / "configs/pipeline/demo.toml").read_text())["step"]
    steps, files = set(), set()
    for names, _, look in rows_of(prose(page_of("pipeline")), "step"):
        first = quoted(names)[0]
        base = re.sub(r"-(small|reinit)$", "", first)
        steps |= {f"{base}{name}" if name.startswith("-") else name for name in quoted(names)}
        files |= set(quoted(look))
    assert steps == {step.get("name", step["stage"]) for step in demo}
    assert files - {"report.html"} <= literals()


def test_commands_are_all_there_are() -> None:
    commands = {command.name for command in app.registered_commands}
    groups = {group.name for group in app.registered_groups}
    assert commands | groups == set(COMMANDS)


@pytest.mark.parametrize("file", sorted(table_columns()), ids=" ".join)
def test_columns_of_tables(file: tuple[str, str]) -> None:
    assert columns_of(*file) == list(table_columns()[file])


def test_a_table_of_a_page_is_read() -> None:
    text = "| column | type |\n|---|---|\n| `a`, `b_c` | int |\n\n| other |\n|---|\n| `d` |\n"
    assert [quoted(row[0]) for row in rows_of(text, "column")] == [["a", "b_c"]]


@pytest.mark.parametrize(
    "file",
    [
        ("capture", "activations.h5"),
        ("capture", "counts.h5"),
        ("sae-train", "latents.h5"),
        ("sae-latents", "sparse_acts.h5"),
        ("logit-lens", "lens.h5"),
    ],
    ids=" ".join,
)
def test_contents_of_hdf5_files(file: tuple[str, str], tmp_path: Path) -> None:
    datasets, attributes = hdf5_contents(tmp_path)[file]
    described = datasets_of(*file)
    assert set(described) == set(datasets)
    for name, dtype in datasets.items():
        told = described[name]
        is_text = np.dtype(dtype).kind == "S"
        assert told == "text" if is_text else dtype in told, name
    assert attributes_of(*file) == attributes


def literals() -> set[str]:
    """Every name of a table or HDF5 file that the code spells out."""
    sources = [path.read_text() for path in (ROOT / "sdlms").rglob("*.py")]
    return {name for text in sources for name in re.findall(r'"(\w+\.(?:csv|h5))"', text)}


def test_every_file_is_described() -> None:
    headings = re.findall(r"^### (\w+\.(?:csv|h5))$", section(), re.MULTILINE)
    assert set(headings) == literals() - NO_OUTPUTS


def events() -> dict[str, set[str]]:
    """Events that the code records, with the fields that it names."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "sdlms").rglob("*.py"):
        source = path.read_text()
        if "explorer" in path.parts or not re.search(r"event(_record)?\(", source):
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            first, name = node.args[0], ast.unparse(node.func).rpartition(".")[2]
            if name in ("event", "event_record") and isinstance(first, ast.Constant):
                fields = {word.arg for word in node.keywords if word.arg}
                found.setdefault(str(first.value), set()).update(fields)
    return found


def test_records_of_meta() -> None:
    rows = {
        cells[0].strip("`"): named(cells[1]) for cells in first_cells("### meta.jsonl", "event")
    }
    recorded = events()
    # The one event whose name is no literal where it is recorded.
    assert set(rows) == set(recorded) | {"tuned_lens_overlap"}
    for event, fields in recorded.items():
        assert fields <= rows[event], event


# Where the code says what a stage's inputs turned out to be.
RESOLVED = {
    "capture": [("stages/capture.py", "_resolved")],
    "sae-train": [("sae/study.py", "resolved")],
    "sae-latents": [("stages/sae_latents.py", "_resolved")],
    "sae-evaluate": [("stages/sae_evaluate.py", "resolved")],
    "si-modularity": [("stages/si_modularity.py", "_resolved"), ("structure/subject.py", "record")],
    "dynamic-k": [("stages/dynamic_k.py", "_resolved")],
    "logit-lens": [("stages/logit_lens.py", "_resolved"), ("lens/study.py", "record_of_inputs")],
    "probe": [("stages/probe.py", "_resolved")],
    "scaling": [("stages/scaling.py", "_resolved")],
    "report": [("stages/report.py", "_resolved")],
}


def returned_keys(module: str, function: str) -> set[str]:
    """Keys of the dictionary that a function gives back."""
    tree = ast.parse((ROOT / "sdlms" / module).read_text())
    (found,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    (value,) = [n.value for n in ast.walk(found) if isinstance(n, ast.Return)]
    assert isinstance(value, ast.Dict)
    return {str(key.value) for key in value.keys if isinstance(key, ast.Constant)}


def test_resolved_of_every_stage() -> None:
    rows = {cells[0]: named(cells[1]) for cells in first_cells("### meta.jsonl", "stage")}
    assert set(rows) == set(RESOLVED) == set(NAMED)
    for stage, places in RESOLVED.items():
        assert rows[stage] == set().union(*(returned_keys(*place) for place in places)), stage


def test_every_metric_is_defined() -> None:
    words = named(prose(ROOT / "docs/metrics.md"))
    columns = {name for columns in table_columns().values() for name in columns}
    endings = ("_low", "_high", "_std", "_se")
    metrics = {name for name in columns - NO_METRICS if not name.endswith(endings)}
    assert not metrics - words
    assert columns >= NO_METRICS


def joined_metrics() -> Mapping[str, set[str]]:
    """What `scaling` joins, by stage."""
    from sdlms.scaling.metrics import TABLES, metrics_of

    return {stage: {metric.name for metric in metrics_of(stage)} for stage in TABLES}


def test_every_joined_metric_is_named() -> None:
    page = ROOT / "docs/scaling.md"
    rows = re.findall(r"^\| `([a-z-]+)`[^|]*\|([^|]+)\|", page.read_text(), re.MULTILINE)
    assert {stage: named(cell) for stage, cell in rows} == joined_metrics()


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (version, "MIT")
    newest = re.search(r"^## (\S+)", prose(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert newest and newest[1] == version


def test_changes_name_every_command() -> None:
    assert set(COMMANDS) <= named(prose(ROOT / "CHANGELOG.md"))
