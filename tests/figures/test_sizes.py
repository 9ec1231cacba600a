"""Models side by side: shares that compare across widths, places that compare across depths."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.acts.sparsity import COLUMNS
from sdlms.errors import UserError
from sdlms.figures.panels import CONFIDENCE_95
from sdlms.figures.sizes import model_rows, sizes_figure
from sdlms.figures.sparsity import UNDEFINED
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import write_table
from tests.figures.overlaps import assert_nothing_overlaps

TASKS = ("qa", "math", "prose")
SIZES = {"small": (3, 100), "large": (6, 400)}  # n_layers, n_units


def make_run(
    artifacts: Path,
    model: str,
    layers: list[int] | None = None,
    control: str = "none",
    tasks: Sequence[str] = TASKS,
    site: str = "mlp_act",
) -> Run:
    """A capture run with a made-up table: task t of layer n has fraction 0.1 + n/100 + t/1000."""
    n_layers, n_units = SIZES[model]
    is_stream = site != "mlp_act"
    rows = [
        {
            **dict.fromkeys(COLUMNS, 0.0),
            "layer": layer,
            "site": site,
            "task": task,
            "n_units": n_units,
            "activation_fraction": nan if is_stream else 0.1 + layer / 100 + number / 1000,
            "activation_fraction_se": nan if is_stream else 0.01,
            "participation_ratio": n_units * (0.2 + layer / 100),
            "participation_ratio_se": n_units * 0.02,
        }
        for layer in (range(n_layers) if layers is None else layers)
        for number, task in enumerate(tasks)
    ]
    with RunWriter("capture", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"name": model, "n_layers": n_layers}, "control": control}, {})
        write_table(out.path / "sparsity.csv", COLUMNS, rows)
        out.output("sparsity.csv", columns=COLUMNS)
    return Run(out.path)


def panels_of(figure: Figure) -> list[list[Axes]]:
    """`[row][column]`."""
    n_columns = len(figure.axes) // 2
    return [figure.axes[:n_columns], figure.axes[n_columns:]]


@pytest.fixture
def figure(tmp_path: Path) -> Figure:
    return sizes_figure([make_run(tmp_path, model) for model in SIZES], "a title")


def test_each_column_is_a_model_and_says_its_size(figure: Figure) -> None:
    (small, large), _ = panels_of(figure)
    assert small.get_title() == "small\n3 layers of 100 neurons"
    assert large.get_title() == "large\n6 layers of 400 neurons"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(TASKS)


def test_the_ratio_is_a_share_of_the_neurons_and_so_is_its_interval(figure: Figure) -> None:
    fractions, ratios = panels_of(figure)
    for panel in fractions:
        values = panel.containers[1][0].get_ydata()
        assert list(values) == pytest.approx([0.101 + n / 100 for n in range(len(values))])
    for panel in ratios:
        points, _, (lines,) = panel.containers[0]
        values = points.get_ydata()
        assert list(values) == pytest.approx([0.2 + n / 100 for n in range(len(values))])
        low, high = lines.get_segments()[0][:, 1]
        assert high - low == pytest.approx(2 * CONFIDENCE_95 * 0.02)


def test_the_same_depth_stands_at_the_same_place(figure: Figure) -> None:
    small, large = panels_of(figure)[0]
    for one, other in zip(small.containers, large.containers, strict=True):
        places, deeper = one[0].get_xdata(), other[0].get_xdata()
        assert list(places) == pytest.approx(list(deeper[::2]))  # layer n of 3 is layer 2n of 6
    middle = [container[0].get_xdata()[1] for container in small.containers]
    assert sum(middle) / len(middle) == pytest.approx(1 / 3)


def test_tasks_stand_apart_and_layers_do_not_mix(figure: Figure) -> None:
    for panel in panels_of(figure)[0]:
        places = [container[0].get_xdata() for container in panel.containers]
        ordered = [float(x) for layer in zip(*places, strict=True) for x in layer]
        assert ordered == sorted(set(ordered))


@pytest.mark.parametrize("order", [["small", "large"], ["large", "small"]])
def test_every_point_and_interval_is_inside_its_panel(tmp_path: Path, order: list[str]) -> None:
    figure = sizes_figure([make_run(tmp_path, model) for model in order], "a title")
    for panel in figure.axes:
        (left, right), (_, top) = panel.get_xlim(), panel.get_ylim()
        for points, _, (lines,) in panel.containers:
            assert left < points.get_xdata().min() and points.get_xdata().max() < right
            assert max(segment[1, 1] for segment in lines.get_segments()) < top


def test_rows_share_their_axis_which_begins_at_zero(figure: Figure) -> None:
    for small, large in panels_of(figure):
        assert small.get_ylim() == large.get_ylim()
        assert small.get_ylim()[0] == 0
        assert small.get_xlim() == large.get_xlim()
        assert small.get_ylabel() and not large.get_ylabel()


def test_nothing_overlaps(figure: Figure) -> None:
    assert_nothing_overlaps(figure)


def test_one_model_and_many_tasks_fit_into_the_figure(tmp_path: Path) -> None:
    tasks = ("python_code", "math", "qa", "prose", "dialogue", "reasoning")
    run = make_run(tmp_path, "small", tasks=tasks)
    assert_nothing_overlaps(sizes_figure([run], "Sparsity of MLP neurons, model beside model"))


def test_a_site_without_an_activation_fraction_says_so(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, model, site="resid_post") for model in SIZES]
    figure = sizes_figure(runs, "a title", site="resid_post")
    fractions, ratios = panels_of(figure)
    for panel in fractions:
        assert [text.get_text() for text in panel.texts] == [UNDEFINED] and not panel.axison
        assert panel.get_title().endswith(" units")
    assert all(panel.axison and not panel.texts for panel in ratios)
    assert "neurons" not in ratios[0].get_ylabel()
    assert_nothing_overlaps(figure)


def test_runs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "small", [layer]) for layer in (1, 2)]
    figure = sizes_figure(runs, "a title")
    titles = [panel.get_title().splitlines() for panel in panels_of(figure)[0]]
    assert [lines[:2] for lines in titles] == [["small", run.name] for run in runs]
    assert_nothing_overlaps(figure)


def test_controls_and_other_sites_do_not_stand_among_models(tmp_path: Path) -> None:
    assert len(model_rows(make_run(tmp_path, "small"))) == 9
    with pytest.raises(UserError, match=r"is a control \(reinit\), no model\.$"):
        model_rows(make_run(tmp_path, "small", control="reinit"))
    with pytest.raises(UserError, match="'mlp_act' was not captured; this run holds resid_post"):
        model_rows(make_run(tmp_path, "small", site="resid_post"))


def test_a_run_that_holds_some_layers_is_drawn_where_they_are(tmp_path: Path) -> None:
    figure = sizes_figure([make_run(tmp_path, "large", [3])], "a title")
    places = [container[0].get_xdata()[0] for container in figure.axes[0].containers]
    assert sum(places) / len(places) == pytest.approx(0.5)


def test_a_site_that_was_not_captured_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path, "small")
    with pytest.raises(UserError, match="'mlp_out' was not captured; this run holds mlp_act"):
        sizes_figure([run], "a title", site="mlp_out")


def test_a_control_is_named_as_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "small"), make_run(tmp_path, "small", control="reinit")]
    (plain, control), _ = panels_of(sizes_figure(runs, "a title"))
    assert plain.get_title().startswith("small\n")
    assert control.get_title().startswith("small, reinit\n")
