"""Draw how sparse one model is: each captured site, layer by layer and task by task."""

from math import isnan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.figures.panels import (
    Row,
    TaskStyle,
    add_frame,
    draw_task,
    legend_columns,
    numbers,
    quieten,
    rows_to_draw,
    stand_on_zero,
    task_styles,
)
from sdlms.runs.reading import Run

TABLE, NEURONS = "sparsity.csv", "mlp_act"
PANELS = (
    ("activation_fraction", "activation fraction\n(share of {units} above 0)"),
    ("participation_ratio", "participation ratio / {units}\n(effective share of {units})"),
)
UNDEFINED = "no activation fraction:\n0 means nothing here"
DODGE = 0.8  # of the distance between two layers, which all tasks take together
LAYER_INCHES, LEAST_INCHES, MOST_INCHES = 0.5, 3.6, 9.0  # widths of a panel


def sparsity_figure(run: Run, title: str) -> Figure:
    """A row per site: activation fraction and participation ratio of each layer and task.

    The participation ratio is divided by the number of units, so that both axes are shares. Of
    sites that are like the residual stream there is no activation fraction.

    Args:
        run: of capture.
        title: above the panels.

    Returns:
        A figure whose lines are 95 % intervals over documents.

    Raises:
        UserError: the run is of another stage.
    """
    rows = rows_to_draw(run, TABLE, "capture")
    sites = list(dict.fromkeys(row["site"] for row in rows))
    layers = list(dict.fromkeys(int(row["layer"]) for row in rows))
    styles = task_styles(rows, width=DODGE)
    width = 2 * min(MOST_INCHES, max(LEAST_INCHES, LAYER_INCHES * len(layers))) + 0.6
    figure = Figure(figsize=(width, 2.8 * len(sites) + 1.1), layout="constrained")
    axes = figure.subplots(len(sites), len(PANELS), sharex=True, squeeze=False)
    for panels, site in zip(axes, sites, strict=True):
        own = [row for row in rows if row["site"] == site]
        _draw_site(list(panels), own, {layer: place for place, layer in enumerate(layers)}, styles)
        panels[0].set_title(
            f"{site}, {own[0]['n_units']} {units_of(site)}", fontsize=10, loc="left"
        )
    for panel in axes[-1]:
        panel.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        panel.set_xlabel("layer")
    add_frame(figure, title, n_columns=legend_columns(len(styles), width))
    return figure


def units_of(site: str) -> str:
    """What the units of a site are called."""
    return "neurons" if site == NEURONS else "units"


def _draw_site(
    panels: list[Axes], rows: list[Row], places: dict[int, int], styles: list[TaskStyle]
) -> None:
    """Both quantities of one site; the empty panel says why it is."""
    at = [places[int(row["layer"])] for row in rows]
    for panel, (quantity, label) in zip(panels, PANELS, strict=True):
        draw_quantity(panel, rows, at, quantity, styles)
        panel.set_ylabel(label.format(units=units_of(rows[0]["site"])))
        quieten(panel)
        stand_on_zero(panel)
        explain_if_empty(panel, rows, quantity)


def explain_if_empty(panel: Axes, rows: list[Row], quantity: str) -> None:
    """In the place of a quantity that a site does not have, say so."""
    if all(isnan(float(row[quantity])) for row in rows):
        panel.text(0.5, 0.5, UNDEFINED, transform=panel.transAxes, ha="center", va="center")
        panel.set_axis_off()


def draw_quantity(
    panel: Axes,
    rows: list[Row],
    places: list[int] | list[float],
    quantity: str,
    styles: list[TaskStyle],
) -> None:
    """One quantity of one site, task after task.

    Args:
        panel: where to draw.
        rows: of one site of one model.
        places: of each row on the x axis.
        quantity: a column; the participation ratio is drawn as a share of the units.
        styles: of the tasks.
    """
    for style in styles:
        own = [(row, x) for row, x in zip(rows, places, strict=True) if row["task"] == style.task]
        found = [row for row, _ in own]
        scale = numbers(found, "n_units") if quantity == "participation_ratio" else 1.0
        draw_task(
            panel,
            style,
            np.array([x for _, x in own], dtype=np.float64),
            numbers(found, quantity) / scale,
            numbers(found, f"{quantity}_se") / scale,
        )
