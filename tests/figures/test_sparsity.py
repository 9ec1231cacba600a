"""One model's sparsity: a row per site, a point per layer and task, intervals of the table."""

from math import nan
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sdlms.acts.sparsity import COLUMNS
from sdlms.errors import UserError
from sdlms.figures.panels import CONFIDENCE_95
from sdlms.figures.sparsity import UNDEFINED, sparsity_figure
from sdlms.runs.reading import Run
from tests.figures.overlaps import assert_nothing_overlaps
from tests.figures.table_runs import ends_of, looks_of, table_run

TASKS = ("python_code", "math", "qa", "prose", "dialogue", "reasoning")
LAYERS = (2, 5, 11)


def capture(artifacts: Path) -> Run:
    """Task t of the n-th layer has fraction 0.1 + n/10 + t/100; the stream has none."""
    rows = [
        {
            **dict.fromkeys(COLUMNS, 0.0),
            **{"layer": layer, "site": site, "task": task, "n_units": n_units},
            "activation_fraction": 0.1 + n / 10 + t / 100 if site == "mlp_act" else nan,
            "activation_fraction_se": 0.01 if site == "mlp_act" else nan,
            "participation_ratio": n_units * (0.2 + n / 10),
            "participation_ratio_se": n_units * 0.02,
        }
        for n, layer in enumerate(LAYERS)
        for site, n_units in (("mlp_act", 400), ("resid_post", 100))
        for t, task in enumerate(TASKS)
    ]
    return table_run(artifacts, "capture", {"sparsity.csv": rows})


@pytest.fixture
def figure(tmp_path: Path) -> Figure:
    return sparsity_figure(capture(tmp_path), "a title")


def test_values_and_intervals_are_those_of_the_table(figure: Figure) -> None:
    fractions, ratios, _, of_stream = figure.axes
    for t, container in enumerate(fractions.containers):
        values = [0.1 + n / 10 + t / 100 for n in range(3)]
        assert container.get_label() == TASKS[t]
        assert list(container[0].get_ydata()) == pytest.approx(values)
        for value, ends in zip(values, ends_of(container), strict=True):
            reach = CONFIDENCE_95 * 0.01
            assert ends == (pytest.approx(value - reach), pytest.approx(value + reach))
    for panel in (ratios, of_stream):  # as a share of 400 and of 100 units
        assert list(panel.containers[0][0].get_ydata()) == pytest.approx([0.2, 0.3, 0.4])
        low, high = ends_of(panel.containers[0])[0]
        assert high - low == pytest.approx(2 * CONFIDENCE_95 * 0.02)


def test_tasks_stand_around_their_layer_and_look_different(figure: Figure) -> None:
    for panel in figure.axes:
        places = [list(container[0].get_xdata()) for container in panel.containers]
        for number in range(len(LAYERS)):
            own = [places_of_task[number] for places_of_task in places]
            assert sum(own) / len(own) == pytest.approx(number)
            assert own == sorted(set(own)) and own[-1] - own[0] < 1
        assert len(looks_of(panel.containers)) == len(TASKS)
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == [str(layer) for layer in LAYERS]


def test_a_site_without_a_fraction_says_so(figure: Figure) -> None:
    _, _, empty, _ = figure.axes
    assert [text.get_text() for text in empty.texts] == [UNDEFINED] and not empty.axison
    assert figure.axes[0].get_title("left") == "mlp_act, 400 neurons"
    assert empty.get_title("left") == "resid_post, 100 units"
    assert "share of neurons above 0" in figure.axes[0].get_ylabel()


def test_nothing_overlaps(figure: Figure) -> None:
    assert_nothing_overlaps(figure)


def test_a_run_of_another_stage_is_one_line(tmp_path: Path) -> None:
    run = table_run(tmp_path, "probe", {"probe.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"holds no sparsity\.csv; a run of capture is needed\.$"):
        sparsity_figure(run, "a title")
