"""Sweeps of autoencoders: every member with its interval, the baseline, and the histograms."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

from sdlms.errors import UserError
from sdlms.figures.sae import NEVER, densities_figure, front_figure
from sdlms.storage.latents import LOG_DENSITY_EDGES
from tests.figures.overlaps import assert_nothing_overlaps
from tests.figures.sae_runs import COEFFICIENTS, TAKEN, fvu_of, sae_run
from tests.figures.table_runs import ends_of, table_run


def lines_of(panel: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The lines that stand in the legend."""
    return {
        str(line.get_label()): tuple(np.asarray(d, dtype=float).tolist() for d in line.get_data())
        for line in panel.lines
        if not str(line.get_label()).startswith("_")
    }


def test_members_and_intervals_are_those_of_the_table(tmp_path: Path) -> None:
    figure = front_figure(sae_run(tmp_path), "a title")
    assert [panel.get_title() for panel in figure.axes] == [
        "resid_post, layer 1",
        "resid_post, layer 2",
    ]
    expected = [(c, fvu_of(c, seed)) for c in COEFFICIENTS for seed in (0, 1)]
    for panel in figure.axes:
        (container,) = panel.containers
        assert np.transpose(container[0].get_data()) == pytest.approx(np.array(expected))
        for (_, fvu), ends in zip(expected, ends_of(container), strict=True):
            assert ends == (pytest.approx(fvu - 0.03), pytest.approx(fvu + 0.01))
        lines = lines_of(panel)
        assert lines["taken"] == ([TAKEN], [pytest.approx(fvu_of(TAKEN, 0))])
        l0, pca = lines["as many principal components"]
        assert l0 == sorted(l0) and pca == pytest.approx([fvu / 2 for _, fvu in expected])
        means = [line for line in panel.lines if list(line.get_xdata()) == list(COEFFICIENTS)]
        middle = [(fvu_of(c, 0) + fvu_of(c, 1)) / 2 for c in COEFFICIENTS]
        assert list(means[0].get_ydata()) == pytest.approx(middle)
        assert panel.get_xscale() == "log" and panel.get_ylim()[0] == 0
    assert_nothing_overlaps(figure)


def test_what_was_given_up_is_hollow_and_not_on_the_line(tmp_path: Path) -> None:
    figure = front_figure(sae_run(tmp_path, layers=(3,), screened=32.0), "a title")
    (panel,) = figure.axes
    faces = {str(c.get_label()): c[0].get_markerfacecolor() for c in panel.containers}
    assert faces["given up early"] == "white" != faces["member"]
    given_up = next(c for c in panel.containers if c.get_label() == "given up early")
    assert list(given_up[0].get_xdata()) == [32.0, 32.0]
    assert any(list(line.get_xdata()) == [4.0, 8.0] for line in panel.lines)
    assert_nothing_overlaps(figure)


def test_histograms_are_those_of_the_file(tmp_path: Path) -> None:
    figure = densities_figure(sae_run(tmp_path), "a title")
    for number, panel in enumerate(figure.axes):
        steps = [patch for patch in panel.patches if isinstance(patch, StepPatch)]
        filled = [patch for patch in steps if patch.get_fill()]
        drawn = [patch for patch in steps if not patch.get_fill()]
        of_member = [6 * number + 2 * n for n in range(len(COEFFICIENTS))]  # as they were written
        for count, patch in zip(of_member, drawn, strict=True):
            values, edges, _ = patch.get_data()
            assert set(values) == {count} and list(edges) == list(LOG_DENSITY_EDGES)
        assert [set(patch.get_data().values) for patch in filled] == [{of_member[1]}]
        assert len({patch.get_linestyle() for patch in drawn}) == len(COEFFICIENTS)
        never = lines_of(panel)
        assert list(never) == [f"coefficient {c:g}" for c in COEFFICIENTS]
        assert all(points == ([NEVER], [3]) for points in never.values())
        markers = {line.get_marker() for line in panel.lines}
        assert len(markers) == len(COEFFICIENTS)
    assert NEVER < LOG_DENSITY_EDGES[0]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == "never" and labels[-1] == "1"
    assert np.all(np.diff(figure.axes[0].get_xticks()) > 0)
    assert_nothing_overlaps(figure)


def test_a_run_of_another_stage_is_one_line(tmp_path: Path) -> None:
    run = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    for draw in (front_figure, densities_figure):
        with pytest.raises(UserError, match=r"holds no sae\.csv; a run of sae-train is needed\.$"):
            draw(run, "a title")
