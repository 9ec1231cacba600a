"""Draw what holding specialized units at their mean costs: in their task, elsewhere, by chance."""

from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.panels import (
    COLOURS,
    GREY,
    INTERVALS,
    MARKERS,
    Row,
    add_title,
    legend_columns,
    numbers,
    quieten,
    rows_to_draw,
)
from sdlms.runs.reading import Run

TABLE, STAGE = "ablation.csv", "si-modularity"
MOST_COLUMNS = 2  # panels beside each other
LEGEND_INCHES = 3.0  # that a series takes in the legend
# What is drawn of a task, from above: rows of which selection, which change, and its look.
SERIES = (
    ("specialized", "in_task", "specialized units, in their task", COLOURS[0], 0),
    ("specialized", "off_task", "specialized units, in the other tasks", COLOURS[1], 1),
    ("random", "in_task", "as many random units, in the task", GREY, 2),
)
SPREAD = 0.24  # between the series of one task, of the distance between two tasks
NOTE = (
    "lines: 95 % intervals over documents (of random units, also over their sets); hollow: none\n"
    "below each task, what its intervals say"
)


def ablation_figure(run: Run, title: str) -> Figure:
    """A panel per layer: the change of the next-token loss, task by task.

    Beside the change that a task's specialized units make in it stand the change that they make
    in all other tasks, and that of random units. A point without an interval is hollow.

    Args:
        run: of si-modularity, with --ablate.
        title: above the panels.

    Raises:
        UserError: the run is of another stage, or ablated nothing.
    """
    if not (run.path / TABLE).is_file() and (run.path / "si_modularity.csv").is_file():
        raise UserError(f"{run.name} ablated nothing; make it with --ablate.")
    rows = rows_to_draw(run, TABLE, STAGE)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    n_columns = min(MOST_COLUMNS, len(layers))
    n_rows = ceil(len(layers) / n_columns)
    size = 5.0 * n_columns + 0.4, (0.5 * len(tasks) + 0.9) * n_rows + 2.4 - 0.5 * n_columns
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).flat)
    for panel, layer in zip(axes, layers, strict=False):
        _draw_layer(panel, [row for row in rows if row["layer"] == layer], tasks)
        panel.set_title(f"layer {layer}", fontsize=10)
    for empty in axes[len(layers) :]:
        empty.remove()
    for number, panel in enumerate(axes[: len(layers)]):
        panel.set_xlabel("change of the loss (nats per token)")
        panel.set_ylabel("" if number % n_columns else "task of the ablated units")
        panel.tick_params(labelbottom=True)
    figure.align_ylabels()
    add_title(figure, title, NOTE)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        [handle[0] for handle in handles],
        labels,
        loc="outside lower center",
        ncols=legend_columns(len(labels), size[0], LEGEND_INCHES),
        frameon=False,
    )
    return figure


def _draw_layer(panel: Axes, rows: list[Row], tasks: list[str]) -> None:
    """All tasks of one layer, the first on top."""
    panel.axvline(0, color="black", linewidth=0.8)
    for place, (selection, where, label, colour, marker) in enumerate(SERIES):
        own = [row for row in rows if row["selection"] == selection]
        heights = np.array([tasks.index(row["task"]) for row in own], dtype=np.float64)
        _draw_points(
            panel, own, f"{where}_delta_nats", heights + SPREAD * (place - 1), (colour, marker)
        )
        panel.containers[-1].set_label(label)
    readings = {row["task"]: row["reading"] for row in rows if row["selection"] == "specialized"}
    names = [f"{task}\n{readings.get(task, '')}" for task in tasks]
    panel.set_yticks(range(len(tasks)), names, fontsize=8)
    panel.set_ylim(len(tasks) - 0.5, -0.5)
    quieten(panel, "x")
    panel.hlines(
        np.arange(len(tasks) - 1) + 0.5,
        *(0, 1),
        transform=panel.get_yaxis_transform(),
        color="black",
        linewidth=0.4,
        alpha=0.3,
    )


def _draw_points(
    panel: Axes,
    rows: list[Row],
    column: str,
    heights: NDArray[np.float64],
    look: tuple[str, int],
) -> None:
    """One series: points with the intervals of the table, hollow where there is none."""
    values = numbers(rows, column)
    ends = np.stack([numbers(rows, f"{column}_{end}") for end in ("low", "high")])
    colour, (marker, size) = look[0], MARKERS[look[1]]
    panel.errorbar(
        values,
        heights,
        xerr=np.abs(ends - values),
        fmt=marker,
        color=colour,
        markersize=size,
        **INTERVALS,
    )
    alone = np.isnan(ends).any(axis=0)
    panel.plot(
        values[alone],
        heights[alone],
        marker=marker,
        color=colour,
        markersize=size,
        markerfacecolor="white",
        linestyle="",
        zorder=3,
    )
