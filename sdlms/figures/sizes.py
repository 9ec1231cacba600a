"""Draw models of several sizes side by side: how sparse their neurons are, by depth and task."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.panels import (
    Row,
    add_frame,
    legend_columns,
    quieten,
    site_rows,
    stand_on_zero,
    task_styles,
    told_apart,
)
from sdlms.figures.sparsity import NEURONS, PANELS, draw_quantity, explain_if_empty, units_of
from sdlms.runs.reading import Run

LEAST_INCHES = 5.4  # width of a figure
DODGE = 0.8  # of the distance between two layers of the deepest model


def sizes_figure(runs: Sequence[Run], title: str, site: str = NEURONS) -> Figure:
    """A column of panels per model, above each other activation fraction and participation ratio.

    The x axis is relative depth, layer / number of layers, so that the layer which `--layers 50%`
    names stands at 0.5 in every model whose depth is even. The participation ratio is divided by
    the number of units: both axes are shares, and models of all widths compare.

    Args:
        runs: capture runs, one per model, in the order of the columns.
        title: above the panels.
        site: which site's rows are drawn.

    Returns:
        A figure whose lines are 95 % intervals over documents.

    Raises:
        UserError: a run holds no such site.
    """
    tables = [site_rows(run, site) for run in runs]
    names = told_apart([_name(run) for run in runs], runs)
    depths = [int(run.start["resolved"]["model"]["n_layers"]) for run in runs]
    every_row = [row for rows in tables for row in rows]
    styles = task_styles(every_row, width=DODGE / max(depths))
    width = max(LEAST_INCHES, 3.4 * len(runs) + 0.6)
    figure = Figure(figsize=(width, 6.2), layout="constrained")
    axes = figure.subplots(len(PANELS), len(runs), sharex=True, sharey="row", squeeze=False)
    for column, (name, rows, n_layers) in enumerate(zip(names, tables, depths, strict=True)):
        for panel, (quantity, _) in zip(axes[:, column], PANELS, strict=True):
            at = [int(row["layer"]) / n_layers for row in rows]
            draw_quantity(panel, rows, at, quantity, styles)
            explain_if_empty(panel, rows, quantity)
        of = f"{rows[0]['n_units']} {units_of(site)}"
        axes[0, column].set_title(f"{name}\n{n_layers} layers of {of}", fontsize=10)
        axes[-1, column].set_xlabel("relative depth (layer / number of layers)")
    for panel, (_, label) in zip(axes[:, 0], PANELS, strict=True):
        panel.set_ylabel(label.format(units=units_of(site)))
    for panel in axes.flat:  # when all is drawn: panels of a row share their limits
        quieten(panel)
        stand_on_zero(panel)
    axes[0, 0].set_xticks([0, 0.25, 0.5, 0.75])
    add_frame(figure, title, n_columns=legend_columns(len(styles), width))
    return figure


def model_rows(run: Run) -> list[Row]:
    """The neurons' rows of a run that may stand among models.

    Raises:
        UserError: the run holds no neurons, or is of a control.
    """
    control = str(run.start["resolved"]["control"])
    if control != "none":
        raise UserError(f"{run.name} is a control ({control}), no model.")
    return site_rows(run, NEURONS)


def _name(run: Run) -> str:
    """The model's name, and the control where the run is one."""
    resolved = run.start["resolved"]
    control = resolved["control"]
    return str(resolved["model"]["name"]) + ("" if control == "none" else f", {control}")
