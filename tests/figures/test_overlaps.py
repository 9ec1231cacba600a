"""What tells whether labels overlap must notice when they do, turned or not."""

import pytest
from matplotlib.figure import Figure

from tests.figures.overlaps import assert_nothing_overlaps


def labelled(distance: float, rotation: float) -> Figure:
    """Two labels below an axis of ten inches, so far from each other."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panel = figure.subplots()
    panel.set_xlim(0, 10)
    panel.set_xticks([5, 5 + distance], ["sdlms-medium", "sdlms-medium-relu"])
    panel.tick_params(axis="x", rotation=rotation)
    for label in panel.get_xticklabels():
        label.set_horizontalalignment("right" if rotation else "center")
    return figure


@pytest.mark.parametrize(("distance", "rotation"), [(2, 0), (0.4, 40), (0.3, 60), (0.2, 90)])
def test_labels_that_stand_apart(distance: float, rotation: float) -> None:
    assert_nothing_overlaps(labelled(distance, rotation))


@pytest.mark.parametrize(("distance", "rotation"), [(0.5, 0), (0.1, 40), (0.05, 60), (0, 40)])
def test_labels_on_each_other(distance: float, rotation: float) -> None:
    with pytest.raises(AssertionError):
        assert_nothing_overlaps(labelled(distance, rotation))
