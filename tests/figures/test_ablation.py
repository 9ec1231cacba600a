"""Ablations: the table's changes and intervals, in the task, elsewhere, and of random units."""

from math import nan
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.ablation import SERIES, ablation_figure
from sdlms.runs.reading import Run
from sdlms.storage.tables import Cell, write_table
from sdlms.structure.ablation_rows import ANY_UNITS, COLUMNS, SPECIFIC, UNDECIDED
from tests.figures.overlaps import assert_nothing_overlaps
from tests.figures.table_runs import ends_of, looks_of, table_run

TASKS = {"python_code": SPECIFIC, "math": ANY_UNITS, "qa": UNDECIDED}
LEVELS = {("specialized", "in_task"): 0.3, ("specialized", "off_task"): 0.02}
LEVELS |= {("random", "in_task"): 0.01, ("random", "off_task"): 9.0}  # the last is not drawn


def ablation_rows(n_layers: int) -> list[dict[str, Cell]]:
    """The change is its level plus a tenth of the layer; `qa` has no interval in other tasks."""
    rows: list[dict[str, Cell]] = []
    for layer in range(n_layers):
        for task, reading in TASKS.items():
            for selection in ("specialized", "random"):
                row = dict.fromkeys(COLUMNS) | {"layer": layer, "task": task}
                row |= {"selection": selection, "reading": reading}
                for where in ("in_task", "off_task"):
                    value = LEVELS[selection, where] + layer / 10
                    known = not (task == "qa" and where == "off_task")
                    name = f"{where}_delta_nats"
                    row[name] = value
                    row[f"{name}_low"] = value - 0.02 if known else nan
                    row[f"{name}_high"] = value + 0.05 if known else nan
                rows.append(row | {"reading": reading if selection == "specialized" else ""})
    return rows


def ablated(artifacts: Path, n_layers: int) -> Run:
    return table_run(artifacts, "si-modularity", {"ablation.csv": ablation_rows(n_layers)})


@pytest.fixture
def figure(tmp_path: Path) -> Figure:
    return ablation_figure(ablated(tmp_path, 3), "a title")


def test_changes_and_intervals_are_those_of_the_table(figure: Figure) -> None:
    for layer, panel in enumerate(figure.axes):
        assert panel.get_title() == f"layer {layer}"
        for (selection, where, label, *_), container in zip(SERIES, panel.containers, strict=True):
            value = LEVELS[selection, where] + layer / 10
            assert container.get_label() == label
            assert list(container[0].get_xdata()) == pytest.approx([value] * 3)
            known = 3 if where == "in_task" else 2
            ends = ends_of(container, axis=0)
            assert (
                ends[:known] == [(pytest.approx(value - 0.02), pytest.approx(value + 0.05))] * known
            )
        assert len(looks_of(panel.containers)) == len(SERIES)


def test_a_point_without_an_interval_is_hollow(figure: Figure) -> None:
    for panel in figure.axes:
        hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
        drawn = [(x, y) for line in hollow for x, y in zip(*line.get_data(), strict=True)]
        of_others = panel.containers[1][0]
        assert drawn == [(of_others.get_xdata()[2], of_others.get_ydata()[2])]


def test_tasks_stand_from_above_with_what_their_intervals_say(figure: Figure) -> None:
    for panel in figure.axes:
        labels = [label.get_text() for label in panel.get_yticklabels()]
        assert labels == [f"{task}\n{reading}" for task, reading in TASKS.items()]
        low, high = panel.get_ylim()
        assert low > high  # the first is on top
        heights = [list(container[0].get_ydata()) for container in panel.containers]
        for number, of_task in enumerate(zip(*heights, strict=True)):
            assert list(of_task) == sorted(set(of_task))
            assert all(abs(height - number) < 0.5 for height in of_task)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_nothing_overlaps(tmp_path: Path, n_layers: int) -> None:
    assert_nothing_overlaps(ablation_figure(ablated(tmp_path, n_layers), "a title"))


def test_a_run_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    run = table_run(tmp_path, "si-modularity", {"si_modularity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"ablated nothing; make it with --ablate\.$"):
        ablation_figure(run, "a title")
    write_table(run.path / "ablation.csv", COLUMNS, [])
    with pytest.raises(UserError, match=r"ablation\.csv has no rows; there is nothing to draw\.$"):
        ablation_figure(run, "a title")
    run = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"holds no ablation\.csv; a run of si-modularity"):
        ablation_figure(run, "a title")
