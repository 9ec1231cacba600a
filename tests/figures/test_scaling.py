"""Models side by side: what the table joined, with its intervals, at the models' sizes."""

from math import nan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sdlms.errors import UserError
from sdlms.figures.panels import COLOURS
from sdlms.figures.scaling import HEADLINES, LEAST_SPAN, stages_joined, trends_figure
from sdlms.runs.reading import Run
from sdlms.scaling.joining import COLUMNS
from sdlms.scaling.metrics import metrics_of
from tests.figures.overlaps import assert_nothing_overlaps
from tests.figures.table_runs import ends_of, looks_of, table_run

MODELS = {"pythia-70m": 70_426_624, "pythia-410m": 405_334_016, "pythia-1.4b": 1_414_647_808}
TASKS = ("code", "math", "qa")


def row(
    stage: str, metric: str, model: str, depth: str, value: float, **cells: str
) -> dict[str, object]:
    return dict.fromkeys(COLUMNS, "") | {
        **{"stage": stage, "site": "mlp_act", "kind": "neuron", "task": "all", "metric": metric},
        **{"unit": "fraction", "relative_depth": depth, "model": model},
        **{
            "n_parameters": MODELS.get(model, 0),
            "value": value,
            "low": value - 0.2,
            "high": value + 0.1,
        },
        **cells,
    }


def rows_of_captures() -> list[dict[str, object]]:
    """Of each task, at two depths and in the mean; the stream has no activation fraction."""
    found = []
    for site in ("mlp_act", "resid_post"):
        for metric in ("activation_fraction", "participation_fraction", "dead_fraction"):
            for depth in ("0.25", "0.5", "mean"):
                for t, task in enumerate(TASKS):
                    for m, model in enumerate(MODELS):
                        is_none = (site, metric) == ("resid_post", "activation_fraction")
                        value = nan if is_none else t + m
                        cells = {"task": task, "site": site}
                        found.append(row("capture", metric, model, depth, value, **cells))
    return found


def rows_of_gates() -> list[dict[str, object]]:
    """Critical sparsity of the whole model; perplexity at three fractions; of tasks, too."""
    found = []
    for m, model in enumerate(MODELS):
        for rule in ("post-norm", "random"):
            for task in ("all", "qa"):
                found.append(
                    row("dynamic-k", "critical_sparsity", model, "model", m, kind=rule, task=task)
                )
                for k in ("0.1", "0.4", "1.0"):
                    cells = {"kind": f"{rule}:{k}", "task": task}
                    value = m + float(k)
                    found.append(
                        row("dynamic-k", "perplexity_ratio", model, "model", value, **cells)
                    )
    alone = row("dynamic-k", "critical_sparsity", "pythia-70m", "0.5", 0.5, kind="post-norm")
    return [*found, alone]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return table_run(tmp_path, "scaling", {"scaling.csv": rows_of_captures() + rows_of_gates()})


def drawn(figure: Figure) -> list[Axes]:
    return [panel for panel in figure.axes if panel.axison]


def test_tasks_are_lines_where_the_stage_has_no_others(run: Run) -> None:
    figure = trends_figure(run, "a title", "capture")
    panels = drawn(figure)
    assert len(panels) == 6  # fraction of neurons, participation of both sites, at two depths
    assert [panel.get_title() for panel in panels[:2]] == [
        "relative depth 0.25",
        "relative depth 0.5",
    ]
    labels = [panel.get_ylabel() for panel in panels[::2]]
    assert labels == [
        "activation fraction\nmlp_act",
        "participation fraction\nmlp_act",
        "participation fraction\nresid_post",
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(TASKS)
    for panel in panels:
        assert panel.get_xscale() == "log"
        for t, container in enumerate(panel.containers):
            sizes, values = container[0].get_data()
            assert list(values) == [t, t + 1, t + 2]
            assert np.log(sizes) == pytest.approx(np.log(list(MODELS.values())), abs=0.1)
            for value, ends in zip(values, ends_of(container), strict=True):
                assert ends == (pytest.approx(value - 0.2), pytest.approx(value + 0.1))
        assert len(looks_of(panel.containers)) == len(TASKS)
        assert len({line.get_linestyle() for line in panel.lines}) > len(TASKS)
        for t in range(len(TASKS)):
            joined = [line.get_ydata().tolist() for line in panel.lines if leads(line, t)]
            assert joined == [[t, t + 1], [t + 1, t + 2]]
    assert_nothing_overlaps(figure)


def leads(line: Line2D, index: int) -> bool:
    """Whether it leads from model to model, in the colour of a task."""
    return line.get_color() == COLOURS[index] and line.get_marker() == "None"


def test_models_of_one_size_stand_side_by_side_with_no_line_between(tmp_path: Path) -> None:
    sizes = {"small": 10**6, "medium": 10**7, "medium-relu": 10**7, "large": 10**8, "huge": 10**9}
    rows = [
        row("logit-lens", "entropy_nats", model, "0.5", number, n_parameters=str(size))
        for number, (model, size) in enumerate(sizes.items())
    ]
    run = table_run(tmp_path, "scaling", {"scaling.csv": rows})
    figure = trends_figure(run, "a title", "logit-lens")
    (panel,) = drawn(figure)
    places, values = panel.containers[0][0].get_data()
    assert values.tolist() == [0, 1, 2, 3, 4]
    assert places[1] < 10**7 < places[2]
    assert np.log10(places) == pytest.approx([6, 7, 7, 8, 9], abs=0.1)
    joined = [line.get_ydata().tolist() for line in panel.lines if leads(line, 0)]
    assert joined == [[3, 4]]
    names = [label.get_text() for label in panel.get_xticklabels()]
    assert names[1] == "medium (10 M)\nmedium-relu (10 M)" and len(names) == 4
    assert "models of one size stand side by side" in " ".join(figure.get_suptitle().split())
    assert_nothing_overlaps(figure)


@pytest.mark.parametrize("values", [(1.0, 0.9974, 1.0), (0.0, 0.002, 0.001), (0.4, 0.5, 0.9)])
def test_a_small_difference_of_shares_looks_small(
    tmp_path: Path, values: tuple[float, ...]
) -> None:
    rows = [
        row("logit-lens", "accuracy", model, "0.5", value, low="", high="")
        for model, value in zip(MODELS, values, strict=True)
    ]
    figure = trends_figure(table_run(tmp_path, "scaling", {"scaling.csv": rows}), "t", "logit-lens")
    (panel,) = drawn(figure)
    low, high = panel.get_ylim()
    assert high - low >= LEAST_SPAN * 0.999
    assert low < min(values) and max(values) < high
    if max(values) - min(values) < 0.01:
        assert -0.01 < low and high < 1.01


def test_no_line_leads_past_a_model_that_has_no_value(tmp_path: Path) -> None:
    rows = [
        row("capture", "participation_fraction", model, depth, number, n_parameters=f"{10**number}")
        for number, model in enumerate(("small", "medium", "large", "huge"), start=6)
        for depth in ("0.5", "0.75")
        if (model, depth) != ("medium", "0.75")
    ]
    figure = trends_figure(table_run(tmp_path, "scaling", {"scaling.csv": rows}), "x", "capture")
    joined = [
        [line.get_ydata().tolist() for line in panel.lines if leads(line, 0)]
        for panel in drawn(figure)
    ]
    assert joined == [[[6, 7], [7, 8], [8, 9]], [[8, 9]]]


def test_rules_are_lines_of_all_tasks_at_one_fraction(run: Run) -> None:
    figure = trends_figure(run, "a title", "dynamic-k")
    critical, ratio = drawn(figure)  # what one model alone has is no trend
    assert critical.get_title() == ratio.get_title() == "whole model"
    assert ratio.get_ylabel().endswith("\nmlp_act, kept fraction 0.4")
    for panel, first in ((critical, 0.0), (ratio, 0.4)):
        values = [list(container[0].get_ydata()) for container in panel.containers]
        assert values == [pytest.approx([first, first + 1, first + 2])] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["post-norm", "random"]
    names = [label.get_text() for label in ratio.get_xticklabels()]
    assert names == ["pythia-70m (70.4 M)", "pythia-410m (405 M)", "pythia-1.4b (1.41 B)"]
    assert ratio.get_xlabel() == "model (parameters, logarithmic)"
    assert_nothing_overlaps(figure)


def test_a_value_without_an_interval_is_a_point(tmp_path: Path) -> None:
    rows = [row("sae-train", "l0", m, "0.5", 3.0, low="", high="", unit="latents") for m in MODELS]
    figure = trends_figure(table_run(tmp_path, "scaling", {"scaling.csv": rows}), "t", "sae-train")
    (panel,) = drawn(figure)
    assert np.isnan(ends_of(panel.containers[0])).all() and not figure.legends
    assert list(panel.containers[0][0].get_ydata()) == [3.0] * 3
    assert panel.get_ylabel() == "l0 (latents)\nmlp_act"
    assert_nothing_overlaps(figure)


def test_headlines_are_metrics_that_are_joined() -> None:
    for stage, names in HEADLINES.items():
        assert set(names) <= {metric.name for metric in metrics_of(stage)}


def test_what_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    assert stages_joined(run) == ["capture", "dynamic-k"]
    with pytest.raises(
        UserError, match="has no 'sae-train' to draw; it joined: capture, dynamic-k"
    ):
        trends_figure(run, "a title", "sae-train")
    other = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"holds no scaling\.csv; a run of scaling is needed\.$"):
        stages_joined(other)
