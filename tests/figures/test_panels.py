"""Styles tell tasks apart; points, intervals and the site's rows are the table's."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.panels import (
    CONFIDENCE_95,
    NOTE,
    add_frame,
    draw_task,
    numbers,
    rows_to_draw,
    site_rows,
    stand_on_zero,
    task_styles,
    told_apart,
)
from sdlms.runs.reading import Run
from sdlms.storage.tables import write_table
from tests.figures.table_runs import table_run

ROWS = [{"task": f"task {number % 50}", "site": "mlp_act"} for number in range(100)]


def test_each_task_has_its_own_look_and_place() -> None:
    styles = task_styles(ROWS, width=0.5)
    assert [style.task for style in styles] == [f"task {number}" for number in range(50)]
    assert len({(style.colour, style.marker) for style in styles}) == 50
    assert len({style.colour for style in styles[:7]}) == 7
    assert len({style.marker for style in styles[:8]}) == 8
    shifts = [style.shift for style in styles]
    assert all(second - first == pytest.approx(0.01) for first, second in pairwise(shifts))
    assert sum(shifts) == pytest.approx(0)


def test_one_task_stands_in_the_middle() -> None:
    (style,) = task_styles([{"task": "qa"}], width=0.5)
    assert style.shift == 0


def test_only_the_sites_rows_are_read_and_an_absent_site_is_one_line(tmp_path: Path) -> None:
    rows = [{"site": site, "layer": layer} for layer in (0, 1) for site in ("mlp_act", "resid")]
    run = table_run(tmp_path, "capture", {"sparsity.csv": rows})
    found = site_rows(run, "resid")
    assert list(numbers(found, "layer")) == [0.0, 1.0]
    with pytest.raises(UserError, match="'mlp_out' was not captured; this run holds mlp_act, res"):
        site_rows(run, "mlp_out")


def test_an_empty_table_is_one_line(tmp_path: Path) -> None:
    run = table_run(tmp_path, "probe", {"probe.csv": [{"layer": 1}]})
    assert rows_to_draw(run, "probe.csv", "probe") == [{"layer": "1"}]
    write_table(tmp_path / "probe.csv", ["layer"], [])
    with pytest.raises(UserError, match=r"probe\.csv has no rows; there is nothing to draw\.$"):
        rows_to_draw(Run(tmp_path), "probe.csv", "probe")
    with pytest.raises(UserError, match=r"holds no sae\.csv; a run of sae-train is needed\.$"):
        rows_to_draw(run, "sae.csv", "sae-train")


def test_names_that_are_the_same_get_the_name_of_their_run() -> None:
    runs = [Run(Path(f"artifacts/{name}")) for name in "abc"]
    assert told_apart(["small", "large", "small"], runs) == ["small\na", "large", "small\nc"]


def test_points_are_shifted_and_intervals_are_two_standard_errors_wide() -> None:
    panel = Figure().subplots()
    style = task_styles(ROWS, width=0.5)[3]
    draw_task(panel, style, np.array([1.0, 2.0]), np.array([0.3, 0.4]), np.array([0.02, np.nan]))
    points, _, (lines,) = panel.containers[0]
    assert list(points.get_xdata()) == [1.0 + style.shift, 2.0 + style.shift]
    assert list(points.get_ydata()) == [0.3, 0.4]
    assert points.get_marker() == style.marker
    low, high = lines.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.3 - CONFIDENCE_95 * 0.02, 0.3 + CONFIDENCE_95 * 0.02))
    stand_on_zero(panel)
    assert panel.get_ylim()[0] == 0 and panel.get_ylim()[1] > high


def test_the_frame_explains_lines_and_tasks_once() -> None:
    figure = Figure(layout="constrained")
    one = np.ones(1)
    for panel in figure.subplots(1, 2):
        for style in task_styles(ROWS[:3], width=0.5):
            draw_task(panel, style, one, one, one)
    add_frame(figure, "a title", n_columns=3)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["task 0", "task 1", "task 2"]
    first, *others = figure.get_suptitle().splitlines()
    assert (first, " ".join(others)) == ("a title", NOTE)
