"""Draw how specialized units are, layer by layer, beside what chance and token identity give."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.panels import COLOURS, MARKERS, Row, add_title, numbers
from sdlms.runs.reading import Run
from sdlms.storage.tables import read_table

TABLE = "controls.csv"
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
    tables = [_rows(run) for run in runs]
    figure = Figure(figsize=(3.4 * len(runs) + 0.6, 4.2), layout="constrained")
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for panel, run, rows in zip(axes, runs, tables, strict=True):
        _draw_model(panel, rows)
        panel.set_title(_name(run), fontsize=10)
    axes[0].set_ylabel("adjusted specialization index\n(0: chance, 1: one task alone)")
    add_title(figure, title, NOTE)
    drawn = {str(series.get_label()): series for panel in axes for series in panel.containers}
    labels = [label for label in LABELS.values() if label in drawn]  # runs may differ in controls
    figure.legend(
        [drawn[label][0] for label in labels],
        labels,
        loc="outside lower center",
        ncols=len(runs) if len(runs) < 5 else len(LABELS),  # as many as there is room for
        frameon=False,
    )
    return figure


def _rows(run: Run) -> list[Row]:
    """The table of one run."""
    path = run.path / TABLE
    if not path.is_file():
        raise UserError(f"{run.name} holds no {TABLE}; a run of si-modularity is needed.")
    return read_table(path)


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
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=1.2,
            label=LABELS[control],
        )
    panel.axhline(0, color="black", linewidth=0.6)
    panel.axvline(len(layers) - 1 + (1 + GAP) / 2, color="black", linewidth=0.4, alpha=0.5)
    panel.set_xticks(list(places.values()), [*layers, "mean"])
    panel.set_xlabel("layer")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", linewidth=0.4, alpha=0.5)
    panel.set_axisbelow(True)
