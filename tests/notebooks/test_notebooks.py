"""Notebooks draw what runs hold, import nothing heavy, write nothing, and are committed bare."""

import ast
import importlib
import io
import re
from pathlib import Path

import matplotlib.image
import nbformat
import numpy as np
import pytest

from sdlms.figures.newest import reader_of
from sdlms.runs.reading import Run, list_runs
from sdlms.storage.files import sha256_of
from tests.notebooks.execution import NOTEBOOKS, Executed, code_of, execute, notebook
from tests.notebooks.study_runs import make_lean_study, make_study

# How many figures each shows of the study.
FIGURES = {
    "capture": 2,  # the model, and models beside each other
    "dynamic_k": 2,  # quality, speed
    "logit_lens": 4,  # curves by lens and by task, a heat map for each lens
    "probe": 1,
    "sae_train": 3,  # front, densities, latents
    "scaling": 1,  # of one stage
    "si_modularity": 3,  # controls, communities, ablation
}
# What a study lacks that was made without graphs, ablation, speed and a tuned lens.
LACKING = {
    ("dynamic_k", "speed-figure"): "measured no speed; make it with --measure both.",
    ("logit_lens", "tuned-map-figure"): "its lenses are: logit.",
    ("si_modularity", "communities-figure"): "made no graphs; make it without --no-graph.",
    ("si_modularity", "ablation-figure"): "ablated nothing; make it with --ablate.",
    ("si_modularity", "ablation-table"): "holds no ablation.csv; a run of si-modularity --ablate",
}
STAGES = {name: name.replace("_", "-") for name in FIGURES}
HEAVY = {"torch", "transformers", "sae_lens", "sklearn", "networkx", "fastapi"}
COMPUTES = {f"sdlms.{layer}" for layer in ("models", "acts", "stages", "sae", "lens", "numerics")}
ALLOWED = ("pandas", "matplotlib", "pathlib", "sdlms.runs", "sdlms.storage", "sdlms.figures")
RESULT = "execute_result"
MOST_LINES = 8  # of a cell, beside imports and settings: logic belongs into the library
LINK = re.compile(r"\]\(([^)#]+)(?:#([^)]+))?\)")

every_notebook = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a small study lies."""
    folder = tmp_path_factory.mktemp("study") / "artifacts"
    make_study(folder)
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file below, with its mode, time and hash; folders too."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            sha256_of(path) if path.is_file() else "",
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture(scope="module")
def executed(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """All notebooks, run on the study; what they draw lies in `pictures`."""
    before = tree(artifacts)
    done = execute(list(FIGURES), artifacts)
    assert tree(artifacts) == before
    folder = tmp_path_factory.mktemp("pictures")
    for name in FIGURES:
        for number, content in enumerate(done.pictures(name)):
            (folder / f"{name}_{number}.png").write_bytes(content)
    return done


@pytest.mark.slow
@every_notebook
def test_a_notebook_draws_the_study(executed: Executed, name: str) -> None:
    assert [error.traceback for error in executed.outputs(name, "error")] == []
    assert [stream.text for stream in executed.outputs(name, "stream")] == []  # no warnings
    pictures = [matplotlib.image.imread(io.BytesIO(png)) for png in executed.pictures(name)]
    assert len(pictures) == FIGURES[name]
    for picture in pictures:
        assert min(picture.shape[:2]) > 400
        assert 0.01 < np.mean(picture[..., :3] < 0.9) < 0.99  # neither empty nor full


@pytest.mark.slow
@every_notebook
def test_tables_have_rows_and_intervals(executed: Executed, name: str) -> None:
    results = [result.data for result in executed.outputs(name, RESULT)]
    tables = [data["text/html"] for data in results if "text/html" in data]
    numbers, settings = tables[:-1], tables[-1]
    assert "seed" in settings
    assert numbers
    assert all(table.count("<tr") > 1 for table in numbers)
    if name != "scaling":  # two models have no interval
        assert any(re.search(r"<td>\S+ \[\S+, \S+\]</td>", table) for table in numbers)


@pytest.mark.slow
def test_a_control_is_not_taken_for_the_model(executed: Executed, artifacts: Path) -> None:
    names = [cells[0].outputs[0].data["text/plain"] for cells in executed.cells.values()]
    runs = [Run(artifacts / name.strip("'")) for name in names]
    assert {run.stage for run in runs} == set(STAGES.values())
    assert {run.start["resolved"]["control"] for run in runs} == {"none"}
    others = [run for run in list_runs(artifacts) if run.start["resolved"]["control"] != "none"]
    assert {run.stage for run in others} == {"capture", "probe", "sae-latents"}
    latents = reader_of(artifacts, runs[list(executed.cells).index("sae_train")], "sae-latents")
    assert latents is not None and latents.start["resolved"]["control"] == "none"


@pytest.mark.slow
def test_the_newest_run_is_not_always_the_one_to_show(executed: Executed, artifacts: Path) -> None:
    newest = {run.stage: run.name for run in list_runs(artifacts)}
    for name in ("capture", "dynamic_k", "logit_lens", "probe", "si_modularity"):
        shown = executed.cells[name][0].outputs[0].data["text/plain"].strip("'")
        assert shown != newest[STAGES[name]]
    tables = [result.data.get("text/html", "") for result in executed.outputs("capture", RESULT)]
    assert any("mlp_act" in table for table in tables)


@pytest.mark.slow
def test_nothing_is_computed(executed: Executed) -> None:
    packages = {module.partition(".")[0] for module in executed.modules}
    assert {"sdlms.figures.sizes", "pandas"} <= executed.modules
    assert not HEAVY & packages
    assert not COMPUTES & executed.modules


@pytest.mark.slow
def test_without_runs_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    done = execute(list(FIGURES), tmp_path, first_cell_only=True)
    for name, stage in STAGES.items():
        (error,) = done.outputs(name, "error")
        line = f"no completed '{stage}' run under {tmp_path}/. Make one: sdlms {stage}"
        assert error.traceback == [f"sdlms: {line}"]


def test_every_notebook_is_tried() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*")} == set(FIGURES)


@every_notebook
def test_it_is_committed_bare(name: str) -> None:
    book = notebook(name)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in book.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", each) for each in ids)  # chosen, not drawn
    for cell in book.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    # As Jupyter writes it, so that saving it changes no line.
    assert nbformat.writes(book) + "\n" == (NOTEBOOKS / f"{name}.ipynb").read_text("utf-8")


def statements(name: str) -> list[list[ast.stmt]]:
    """The code of each cell, without the lines that are IPython's."""
    return [ast.parse(re.sub(r"(?m)^%.*$", "", code)).body for code in code_of(name)]


@every_notebook
def test_imports_are_those_allowed_and_exist(name: str) -> None:
    imports = [
        node
        for node in ast.walk(ast.Module([s for cell in statements(name) for s in cell], []))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    for node in imports:
        modules = (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
        for module in modules:
            assert str(module).startswith(ALLOWED)
            imported = importlib.import_module(str(module))
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(imported, alias.name) for alias in node.names)


@every_notebook
def test_cells_are_short(name: str) -> None:
    first, *others = statements(name)
    assert all(isinstance(s, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr) for s in first)
    for cell in others:
        assert len(ast.unparse(ast.Module(cell, [])).splitlines()) <= MOST_LINES


@pytest.mark.slow
def test_what_is_lacking_is_one_line_and_does_not_stop_the_rest(
    artifacts: Path, tmp_path: Path
) -> None:
    make_lean_study(artifacts, tmp_path)
    done = execute(list(FIGURES), tmp_path, allow_errors=False)
    errors = {
        (name, cell.id): output.traceback
        for name, cells in done.cells.items()
        for cell in cells
        for output in cell.outputs
        if output.output_type == "error"
    }
    assert set(errors) == set(LACKING)
    for place, (line,) in errors.items():
        assert line.startswith("sdlms: ") and LACKING[place] in line
    for name in ("capture", "probe", "sae_train", "scaling"):
        assert len(done.pictures(name)) == FIGURES[name]


@every_notebook
def test_without_a_run_all_stops(name: str) -> None:
    first, *_ = (cell for cell in notebook(name).cells if cell.cell_type == "code")
    assert "raises-exception" not in first.metadata.get("tags", [])


def anchors(document: Path) -> set[str]:
    """How headings are linked."""
    headings = re.findall(r"(?m)^#+ (.+)$", document.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_notebook
def test_words_explain_each_figure_and_links_lead_somewhere(name: str) -> None:
    words = [cell.source for cell in notebook(name).cells if cell.cell_type == "markdown"]
    for part in ("**What it shows.**", "**How to read it.**", "**What not to conclude.**"):
        assert sum(part in text for text in words) >= 1
    links = [link for text in words for link in LINK.findall(text)]
    assert any(target.startswith("../docs/") for target, _ in links)
    for target, anchor in links:
        assert (NOTEBOOKS / target).is_file()
        assert not anchor or anchor in anchors(NOTEBOOKS / target)
