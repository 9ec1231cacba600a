"""Pictures of a lens run: every value, interval and word where it belongs."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sdlms.errors import UserError
from sdlms.figures.cells import drawable, ink_on
from sdlms.figures.lens import PANELS, curves_figure, heat_map
from sdlms.lens.tables import COLUMNS, lens_rows
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.lens_file import LensReader
from sdlms.storage.rows import Rows
from sdlms.storage.tables import read_table, write_table
from tests.figures.overlaps import assert_nothing_overlaps
from tests.lens.lens_files import STATES, rows_of, write_lens

ROWS = rows_of([9, 20, 30, 12, 1, 25], ["a", "b", "b", "a", "a", "b"])
PLACES = [-1.0, -0.5, 0.0, 2.0]


def measured(artifacts: Path, rows: Rows = ROWS) -> Run:
    """A run of random numbers, without a model behind it."""
    with RunWriter("logit-lens", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"name": "small"}}, {})
        write_lens(out.path / "lens.h5", rows, ["logit", "tuned"])
        with LensReader(out.path / "lens.h5") as reader:
            table = list(lens_rows(reader, list(dict.fromkeys(rows.document_tasks)), 0))
        write_table(out.path / "logit_lens.csv", COLUMNS, table)
        out.output("lens.h5")
        out.output("logit_lens.csv", columns=COLUMNS)
    return Run(out.path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return measured(tmp_path)


@pytest.mark.parametrize(
    ("by", "names", "fixed"),
    [("lens", ["logit", "tuned"], {"task": "all"}), ("task", ["a", "b"], {"lens": "logit"})],
)
def test_lines_are_the_table(run: Run, by: str, names: list[str], fixed: dict[str, str]) -> None:
    figure = curves_figure(run, "a title", by="lens" if by == "lens" else "task")
    table = read_table(run.path / "logit_lens.csv")
    for panel, (column, label) in zip(figure.axes, PANELS, strict=True):
        assert panel.get_title() == label
        lines = {line.get_label(): line for line in panel.lines}
        for name, band in zip(names, panel.collections, strict=True):
            wanted = {**fixed, by: name}
            own = [r for r in table if wanted.items() <= r.items() and r["site"] != "model"]
            assert list(lines[name].get_xdata()) == PLACES
            values = [float(row[column]) for row in own]
            assert list(lines[name].get_ydata()) == pytest.approx(values)
            corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}
            for end in ("low", "high"):
                ends = {
                    (x, round(float(row[f"{column}_{end}"]), 9))
                    for x, row in zip(PLACES, own, strict=True)
                }
                assert ends <= corners
            if f"{column}_chance" in own[0]:
                chance = [float(row[f"{column}_chance"]) for row in own]
                dotted = [line for line in panel.lines if line.get_linestyle() == ":"]
                assert any(list(line.get_ydata()) == pytest.approx(chance) for line in dotted)
    assert_nothing_overlaps(figure)


def test_a_legend_of_many_tasks_has_several_rows(tmp_path: Path) -> None:
    tasks = [f"a long task {number}" for number in range(12)]
    rows = rows_of([3] * len(tasks), tasks)
    figure = curves_figure(measured(tmp_path, rows), "a title", by="task")
    assert_nothing_overlaps(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == tasks


def test_lines_differ_without_colour(run: Run) -> None:
    for by in ("lens", "task"):
        figure = curves_figure(run, "a title", by="lens" if by == "lens" else "task")
        for panel in figure.axes:
            named = [line for line in panel.lines if not str(line.get_label()).startswith("_")]
            assert len({line.get_marker() for line in named}) == len(named)
            assert len({line.get_linestyle() for line in named}) == len(named)


def test_layers_are_named_and_the_last_one_always(run: Run) -> None:
    panel = curves_figure(run, "a title").axes[-1]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["emb.", "0", "2"]


@pytest.mark.parametrize(("document", "tokens"), [(0, (0, 12)), (2, (4, 9)), (4, (0, 1))])
def test_a_cell_says_what_the_file_says(run: Run, document: int, tokens: tuple[int, int]) -> None:
    figure = heat_map(run, document, "a title", lens="tuned", tokens=tokens)
    panel, bar = figure.axes
    first = int(ROWS.offsets[document]) + tokens[0]
    last = min(int(ROWS.offsets[document]) + tokens[1], int(ROWS.offsets[document + 1]))
    with LensReader(run.path / "lens.h5") as reader:
        top_ids = reader.read("tuned", "top_ids", first, last)[..., 0]
        values = reader.read("tuned", "top_probabilities", first, last)[..., 0]
        words = [drawable(text) for text in reader.texts(ROWS.ids[first:last])]
        texts = np.array(reader.texts(top_ids.ravel())).reshape(top_ids.shape)
    np.testing.assert_allclose(panel.images[0].get_array(), values.T)
    assert (panel.images[0].norm.vmin, panel.images[0].norm.vmax) == (0, 1)
    cells = {(text.get_position(), text.get_text(), text.get_weight()) for text in panel.texts}
    end = ROWS.offsets[document + 1]
    assert cells == {
        (
            (token, state),
            drawable(str(texts[token, state])),
            "bold"
            if first + token + 1 < end and top_ids[token, state] == ROWS.ids[first + token + 1]
            else "normal",
        )
        for token in range(last - first)
        for state in range(len(STATES))
    }
    assert [label.get_text() for label in panel.get_xticklabels()] == words
    names = ["embedding", "attention 0", "layer 0", "layer 2"]
    assert [label.get_text() for label in panel.get_yticklabels()] == names
    assert bar.get_ylabel() == "probability of the first guess"
    FigureCanvasAgg(figure).draw()  # dollar signs and line breaks, too


def test_words_have_the_ink_of_their_cell(run: Run) -> None:
    panel = heat_map(run, 2, "a title").axes[0]
    values = panel.images[0].get_array()
    for text in panel.texts:
        column, row = text.get_position()
        assert text.get_color() == ink_on(float(values[int(row), int(column)]))


def test_what_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds documents 0 to 5, not 6"):
        heat_map(run, 6, "a title")
    with pytest.raises(UserError, match=r"document 0 has 9 tokens, not \(9, 12\)"):
        heat_map(run, 0, "a title", tokens=(9, 12))
    with pytest.raises(UserError, match="its lenses are: logit, tuned"):
        heat_map(run, 0, "a title", lens="other")
    with RunWriter("capture", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
    for draw in (lambda run: curves_figure(run, ""), lambda run: heat_map(run, 0, "")):
        with pytest.raises(UserError, match="a run of logit-lens is needed"):
            draw(Run(out.path))
