"""Specialization beside its controls: every value and interval where it belongs."""

from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.figures.controls import LABELS, controls_figure
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import write_table
from tests.figures.overlaps import assert_nothing_overlaps

COLUMNS = ["layer", "control", "SI_adjusted", "SI_adjusted_low", "SI_adjusted_high", "units_scored"]
LEVELS = {
    **{"none": 0.3, "shuffled-labels": 0.0, "reinit": 0.1},
    **{"reinit-matched": 0.15, "permute-tokens": 0.25},
}


def make_run(artifacts: Path, model: str, controls: list[str], layers: int = 3) -> Run:
    """A run whose control c has `LEVELS[c]` + layer / 100 at each layer."""
    rows = [
        {
            "layer": layer,
            "control": control,
            "SI_adjusted": LEVELS[control] + number / 100,
            "SI_adjusted_low": LEVELS[control] + number / 100 - 0.02,
            "SI_adjusted_high": LEVELS[control] + number / 100 + 0.01,
            "units_scored": 10,
        }
        for number, layer in enumerate([*range(layers), "mean"])
        for control in controls
    ]
    with RunWriter("si-modularity", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"name": model}, "site": "mlp_act"}, {})
        write_table(out.path / "controls.csv", COLUMNS, rows)
        out.output("controls.csv", columns=COLUMNS)
    return Run(out.path)


def test_each_control_has_its_values_and_intervals(tmp_path: Path) -> None:
    figure = controls_figure([make_run(tmp_path, "small", list(LEVELS))], "a title")
    (panel,) = figure.axes
    assert panel.get_title() == "small\nmlp_act"
    assert [container.get_label() for container in panel.containers] == list(LABELS.values())
    for control, container in zip(LABELS, panel.containers, strict=True):
        points, _, (lines,) = container
        expected = [LEVELS[control] + number / 100 for number in range(4)]
        assert list(points.get_ydata()) == pytest.approx(expected)
        for value, segment in zip(expected, lines.get_segments(), strict=True):
            assert list(segment[:, 1]) == pytest.approx([value - 0.02, value + 0.01])
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert labels == ["0", "1", "2", "mean"]


def test_controls_stand_apart_and_layers_do_not_mix(tmp_path: Path) -> None:
    figure = controls_figure([make_run(tmp_path, "small", list(LEVELS))], "a title")
    places = [container[0].get_xdata() for container in figure.axes[0].containers]
    ordered = [float(x) for layer in zip(*places, strict=True) for x in layer]
    assert ordered == sorted(set(ordered))


def test_a_control_looks_the_same_whoever_stands_beside_it(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", list(LEVELS)), make_run(tmp_path, "b", ["none", "reinit"])]
    full, part = controls_figure(runs, "a title").axes
    looks = {c.get_label(): (c[0].get_color(), c[0].get_marker()) for c in full.containers}
    for container in part.containers:
        look = container[0].get_color(), container[0].get_marker()
        assert look == looks[container.get_label()]
    assert len(set(looks.values())) == len(looks)


def test_the_legend_has_every_control_of_any_run(tmp_path: Path) -> None:
    few = [make_run(tmp_path, "b", ["none", "reinit"]), make_run(tmp_path, "c", ["none"])]
    figure = controls_figure([*few, make_run(tmp_path, "a", list(LEVELS))], "a title")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(LABELS.values())
    (legend,) = controls_figure(few, "a title").legends
    assert [text.get_text() for text in legend.get_texts()] == [LABELS["none"], LABELS["reinit"]]


def test_runs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, model, ["none"]) for model in ("small", "small", "large")]
    titles = [panel.get_title().splitlines() for panel in controls_figure(runs, "a title").axes]
    assert titles == [
        ["small", "mlp_act", runs[0].name],
        ["small", "mlp_act", runs[1].name],
        ["large", "mlp_act"],
    ]


@pytest.mark.parametrize("n_runs", [1, 2, 3, 5])
def test_nothing_overlaps(tmp_path: Path, n_runs: int) -> None:
    runs = [make_run(tmp_path, f"model-{n}", list(LEVELS), 2 + n) for n in range(n_runs)]
    figure = controls_figure(runs, "a title")
    assert_nothing_overlaps(figure)


def test_a_run_of_another_stage_is_one_line(tmp_path: Path) -> None:
    with RunWriter("capture", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
    with pytest.raises(UserError, match=r"holds no controls\.csv; a run of si-modularity"):
        controls_figure([Run(out.path)], "a title")
