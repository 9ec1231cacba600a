"""Draw how specialized units are, layer by layer, beside what chance and token identity give."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.figures.panels import (
    COLOURS,
    INTERVALS,
    MARKERS,
    Row,
    add_title,
    legend_columns,
    numbers,
    quieten,
    rows_to_draw,
    told_apart,
)
from sdlms.runs.reading import Run

TABLE, STAGE = "controls.csv", "si-modularity"
MEAN = "mean"
# In the order of the legend; each colour and marker is always the same control's.
LABELS = {
    "none": "the model",
    "permute-tokens": "each document's tokens permuted",
    "reinit": "fresh weights",
    "reinit-matched": "fresh weights, firing as often",
    "shuffled-labels": "documents' tasks shuffled",
}
NOTE = (
    "lines are 95 % intervals over documents (of shuffled tasks, 95 % of 5,000 shuffles), "
    "hidden where they are shorter than the point"
)
LEGEND_INCHES = 3.2  # that the longest entry takes
DODGE = 0.65  # of the distance between two layers, which all controls take together
GAP = 0.5  # more than a layer, between the last layer and the mean over layers


def controls_figure(runs: Sequence[Run], title: str) -> Figure:
    """A panel per run: adjusted SI by layer and, at the right, its mean over layers.

    Args:
        runs: si-modularity runs, one per model, in the order of the panels.
        title: above the panels.

    Raises:
        UserError: a run is of another stage.
    """
    tables = [control_rows(run) for run in runs]
    names = told_apart([_name(run) for run in runs], runs)
    width = 3.4 * len(runs) + 0.6
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for panel, name, rows in zip(axes, names, tables, strict=True):
        _draw_model(panel, rows)
        panel.set_title(name, fontsize=10)
    axes[0].set_ylabel("adjusted specialization index\n(0: chance, 1: one task alone)")
    add_title(figure, title, NOTE)
    drawn = {str(series.get_label()): series for panel in axes for series in panel.containers}
    labels = [label for label in LABELS.values() if label in drawn]  # runs may differ in controls
    figure.legend(
        [drawn[label][0] for label in labels],
        labels,
        loc="outside lower center",
        ncols=legend_columns(len(labels), width, LEGEND_INCHES),
        frameon=False,
    )
    return figure


def control_rows(run: Run) -> list[Row]:
    """The table of one run.

    Raises:
        UserError: the run is of another stage.
    """
    return rows_to_draw(run, TABLE, STAGE)


def _name(run: Run) -> str:
    """The model, and what its units are."""
    resolved = run.start["resolved"]
    return f"{resolved['model']['name']}\n{resolved['site']}"


def _draw_model(panel: Axes, rows: list[Row]) -> None:
    """All controls of one model."""
    layers = list(dict.fromkeys(row["layer"] for row in rows if row["layer"] != MEAN))
    places = {layer: float(index) for index, layer in enumerate(layers)}
    places[MEAN] = len(layers) + GAP
    present = [control for control in LABELS if any(row["control"] == control for row in rows)]
    for index, control in enumerate(present):
        own = [row for row in rows if row["control"] == control]
        values = numbers(own, "SI_adjusted")
        ends = np.stack([numbers(own, f"SI_adjusted_{end}") for end in ("low", "high")])
        style = list(LABELS).index(control)
        shift = DODGE * ((index + 0.5) / len(present) - 0.5)
        marker, size = MARKERS[style]
        panel.errorbar(
            np.array([places[row["layer"]] for row in own]) + shift,
            values,
            yerr=np.abs(ends - values),
            fmt=marker,
            color=COLOURS[style],
            markersize=size,
            label=LABELS[control],
            **INTERVALS,
        )
    panel.axhline(0, color="black", linewidth=0.6)
    panel.axvline(len(layers) - 1 + (1 + GAP) / 2, color="black", linewidth=0.4, alpha=0.5)
    panel.set_xticks(list(places.values()), [*layers, "mean"])
    panel.set_xlabel("layer")
    quieten(panel)
