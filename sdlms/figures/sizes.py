"""Draw models of several sizes side by side: how sparse their neurons are, by depth and task."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sdlms.figures.panels import add_frame, quieten, site_rows, task_styles
from sdlms.figures.sparsity import PANELS, draw_quantity
from sdlms.runs.reading import Run

DODGE = 0.8  # of the distance between two layers of the deepest model


def sizes_figure(runs: Sequence[Run], title: str, site: str = "mlp_act") -> Figure:
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
    tables = [site_rows(run.path / "sparsity.csv", site) for run in runs]
    depths = [int(run.start["resolved"]["model"]["n_layers"]) for run in runs]
    every_row = [row for rows in tables for row in rows]
    styles = task_styles(every_row, width=DODGE / max(depths))
    figure = Figure(figsize=(3.4 * len(runs) + 0.6, 6), layout="constrained")
    axes = figure.subplots(len(PANELS), len(runs), sharex=True, sharey="row", squeeze=False)
    for column, (run, rows, n_layers) in enumerate(zip(runs, tables, depths, strict=True)):
        for panel, (quantity, _) in zip(axes[:, column], PANELS, strict=True):
            at = [int(row["layer"]) / n_layers for row in rows]
            draw_quantity(panel, rows, at, quantity, styles)
        name, n_units = _name(run), rows[0]["n_units"]
        axes[0, column].set_title(f"{name}\n{n_layers} layers of {n_units} neurons", fontsize=10)
        axes[-1, column].set_xlabel("relative depth (layer / number of layers)")
    for panel, (_, label) in zip(axes[:, 0], PANELS, strict=True):
        panel.set_ylabel(label.format(units="neurons"))
    for panel in axes.flat:  # when all is drawn: panels of a row share their limits
        quieten(panel)
    axes[0, 0].set_xticks([0, 0.25, 0.5, 0.75])
    add_frame(figure, title, n_columns=len(styles))
    return figure


def _name(run: Run) -> str:
    """The model's name, and the control where the run is one."""
    resolved = run.start["resolved"]
    control = resolved["control"]
    return str(resolved["model"]["name"]) + ("" if control == "none" else f", {control}")
