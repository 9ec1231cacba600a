"""Draw what a capture run measured: how sparse neurons are, by layer and task."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sdlms.figures.panels import add_frame, draw_task, numbers, quieten, site_rows, task_styles

PANELS = (
    ("activation_fraction", "activation fraction\n(share of neurons above 0)"),
    ("participation_ratio", "participation ratio\n(effective number of active neurons)"),
)


def sparsity_figure(sparsity_csv: Path, title: str, site: str = "mlp_act") -> Figure:
    """Activation fraction and participation ratio by layer, one colour and marker per task.

    Args:
        sparsity_csv: of a capture run.
        title: above the panels.
        site: which site's rows are drawn.

    Returns:
        A figure whose lines are 95 % intervals over documents.

    Raises:
        UserError: the run holds no such site.
    """
    rows = site_rows(sparsity_csv, site)
    layers = sorted({int(row["layer"]) for row in rows})
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for panel, (column, label) in zip(axes, PANELS, strict=True):
        for style in task_styles(rows, width=0.55):
            own = [row for row in rows if row["task"] == style.task]
            places = np.array([float(layers.index(int(row["layer"]))) for row in own])
            draw_task(panel, style, places, numbers(own, column), numbers(own, f"{column}_se"))
        panel.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        panel.set_xlabel("layer")
        panel.set_ylabel(label)
        quieten(panel)
    add_frame(figure, title, "outside right center", n_columns=1)
    return figure
