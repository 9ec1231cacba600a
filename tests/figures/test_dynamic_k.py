"""Perplexity against bytes: every rule's points, intervals and ring where they belong."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.dynamic_k import BOUND, GREY, LOOKS, quality_figure
from sdlms.models.gating.rules import RULES
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.figures.gated_runs import COSTS, KEEP, NOT_REACHED, gated_run
from tests.figures.overlaps import assert_nothing_overlaps


@pytest.fixture
def figure(tmp_path: Path) -> Figure:
    return quality_figure([gated_run(tmp_path)], "a title")


def rings(panel: Axes) -> dict[str, tuple[float, float]]:
    """Where critical sparsity is marked, by colour."""
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "none"]
    return {
        line.get_markeredgecolor(): (line.get_xdata()[0], line.get_ydata()[0]) for line in hollow
    }


def test_each_rule_has_its_points_and_intervals(figure: Figure) -> None:
    (panel,) = figure.axes
    assert panel.get_title() == "small"
    assert {container.get_label() for container in panel.containers} == set(COSTS)
    for points, _, (lines,) in panel.containers:
        rule = next(c.get_label() for c in panel.containers if c[0] is points)
        ratios, fixed = COSTS[rule]
        assert list(points.get_ydata()) == pytest.approx([ratio - 1 for ratio in ratios])
        saved = [100 * (1 - fixed) * (1 - k) for k in KEEP]
        assert list(points.get_xdata()) == pytest.approx(saved)
        for ratio, segment in zip(ratios, lines.get_segments(), strict=True):
            rise, half = ratio - 1, abs(ratio - 1) / 5
            assert list(segment[:, 1]) == pytest.approx([rise - half, rise + half])


def test_curves_run_through_their_points_and_rings_lie_on_them(tmp_path: Path) -> None:
    (panel,) = quality_figure([gated_run(tmp_path, rules=["post-norm", "input"])], "t").axes
    for container in panel.containers:
        points = container[0]
        curve = next(
            line
            for line in panel.lines
            if line.get_color() == points.get_color() and len(line.get_xdata()) > 100
        )
        x, y = curve.get_data()
        assert np.interp(points.get_xdata(), x, y) == pytest.approx(points.get_ydata(), abs=1e-9)
        ring = rings(panel)[points.get_color()]
        assert ring[1] == BOUND
        assert np.interp(ring[0], x, y) == pytest.approx(BOUND, rel=1e-3)


def test_what_is_not_reached_has_no_ring(tmp_path: Path) -> None:
    (panel,) = quality_figure([gated_run(tmp_path, rules=[NOT_REACHED])], "a title").axes
    assert not rings(panel)


def test_every_rule_has_a_look_of_its_own_and_controls_are_grey() -> None:
    assert set(LOOKS) == set(RULES)
    assert len(set(LOOKS.values())) == len(LOOKS)
    grey = {rule for rule, look in LOOKS.items() if look.colour == GREY}
    assert grey == {"random", "static", "blocks-random"}
    assert len({(look.marker, look.dashes) for look in LOOKS.values()}) == len(LOOKS)  # no colour


def test_every_point_is_inside_and_the_bound_is_seen(figure: Figure) -> None:
    (panel,) = figure.axes
    low, high = panel.get_ylim()
    assert panel.get_yscale() == "symlog" and low < 0
    for _, _, (lines,) in panel.containers:
        ends = np.concatenate([segment[:, 1] for segment in lines.get_segments()])
        assert low < ends.min() and ends.max() < high
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert {"0", "+0.1 %", "+1 %", "+100 %"} <= set(labels)


@pytest.mark.parametrize("n_runs", [1, 2, 3])
def test_nothing_overlaps(tmp_path: Path, n_runs: int) -> None:
    runs = [gated_run(tmp_path, f"model-{n}") for n in range(n_runs)]
    figure = quality_figure(runs, "a title")
    assert_nothing_overlaps(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(LOOKS)
    first, *others = figure.axes
    assert all(panel.get_ylim() == first.get_ylim() for panel in others)
    assert first.get_ylabel() and first.get_xlabel().endswith("(%)")


def test_runs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    runs = [gated_run(tmp_path, rules=["random"]) for _ in range(2)]
    figure = quality_figure(runs, "a title")
    assert [panel.get_title() for panel in figure.axes] == [f"small\n{run.name}" for run in runs]
    assert_nothing_overlaps(figure)


def test_a_run_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"measured no quality; make it with --measure both\.$"):
        quality_figure([gated_run(tmp_path, phases=["decode"])], "a title")
    with RunWriter("capture", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
    with pytest.raises(UserError, match=r"holds no dynamic_k\.csv; a run of dynamic-k is needed"):
        quality_figure([Run(out.path)], "a title")
